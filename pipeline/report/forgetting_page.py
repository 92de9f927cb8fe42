"""The page of forgetting: what moved and what was lost in words, noise level by noise level, and the worst pairs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import atomic
from pipeline.evaluation import results
from pipeline.evaluation.forgetting import LITTLE, Forgetting
from pipeline.evaluation.looking import ADAPTED, BASE
from pipeline.evaluation.metrics.table import METRICS
from pipeline.evaluation.results import Evaluation
from pipeline.evaluation.sample import SampleSettings
from pipeline.evaluation.statistics import Interval
from pipeline.report.pictures import embedded
from pipeline.report.rendering import template

FILE = "report.html"
KEEPS = {"with_prior_preservation": 0.71, "preservation_weight": 0.40, "rank": 0.17}  # of docs/evidence.md
LOW_RANK = 4
SAID = {  # of each metric, when it fell and when it rose
    "top1": ("Fewer subjects are recognised", "More subjects are recognised"),
    "clip_margin": ("Pictures are less near to their own captions", "Pictures are nearer to their own captions"),
    "r_precision": ("Fewer pictures are recognised by their caption", "More pictures are recognised by their caption"),
    "rouge_l": ("Pictures show less of what captions say", "Pictures show more of what captions say"),
    "within_caption": ("Pictures of one caption are more alike", "Pictures of one caption differ more"),
}


def lines(found: Forgetting) -> list[str]:
    """What was found, a sentence for each thing that a picture can lose."""
    apart, seed = found.moved.text("{:.3f}"), found.another_seed.text("{:.3f}")
    said = [
        f"Of the same caption and seed, pictures of base and adapter are {apart} apart; two seeds of the base {seed}."
    ]
    unsure = []
    for change in followed(found).sets.get("change", {}).values():
        metric = METRICS[change.metric]
        before, now = (found.evaluation.sets[name][results.key(change)].value for name in (BASE, ADAPTED))
        values = f"{metric.form.format(before)} before, {metric.form.format(now)} now"
        if change.low <= 0 <= change.high:
            unsure.append(f"{metric.short} ({values})")
        else:
            judge = (change.extractor or "").partition(" (")[0]
            said.append(f"{SAID[change.metric][change.value > 0]}: {values} ({metric.short}, {judge}).")
    if unsure:
        said.append(f"No change beyond chance: {', '.join(unsure)}.")
    return said + predictions(found)


def predictions(found: Forgetting) -> list[str]:
    """How far what it predicts moved, and at which noise most."""
    without = [level.moved_unconditional for level in found.levels if level.moved_unconditional is not None]
    said = []
    for name, moved in (("with a caption", [level.moved for level in found.levels]), ("without one", without)):
        if moved:
            t = found.levels[max(range(len(moved)), key=lambda k: moved[k].value)].t
            what = "what is where" if t > 0.5 else "fine detail"
            mean = sum(one.value for one in moved) / len(moved)
            said.append(
                f"What the model predicts {name} moved by {mean:.0%} of the base's own squared error, most at noise "
                f"t = {t:g} ({what})."
            )
    return said


def followed(found: Forgetting) -> Evaluation:
    """Of what was measured: how well pictures follow their captions, and how much those of one caption differ."""
    sets = {
        which: {
            key: one
            for key, one in some.items()
            if one.metric in SAID and (one.metric != "within_caption" or one.extractor == found.extractor)
        }
        for which, some in found.evaluation.sets.items()
    }
    return Evaluation(found.evaluation.n, found.evaluation.extractors, sets)


def advice(found: Forgetting, run: Mapping[str, Any]) -> list[str]:
    """What would have kept more, by the options that the run had and what they did in docs/evidence.md.

    Nothing where little moved, or where the adapter came without its run.
    """
    if found.share.high < LITTLE or not run:
        return []
    said = []
    if not any(run.get(name) for name in ("trigger_word", "caption_prefix", "instance_prompt")):
        said.append(
            "This run had no word of its own, so it was trained to change every picture. With --caption_prefix it "
            "learns to change those whose captions hold the word."
        )
    if not (run.get("with_prior_preservation") or run.get("preservation_weight")):
        prior, weight = (f"{KEEPS[name]:.0%}" for name in ("with_prior_preservation", "preservation_weight"))
        said.append(
            f"Preservation keeps more: in runs on the starter base such pictures moved less by {prior} with "
            f"--with_prior_preservation and by {weight} with --preservation_weight 1, and as many steps learnt less."
        )
    if run.get("rank", 0) > LOW_RANK:
        said.append(
            f"A low rank keeps more: less by {KEEPS['rank']:.0%} at rank {LOW_RANK} than at 64; it learnt less too."
        )
    return said


def write(
    folder: Path, name: str, found: Forgetting, run: Mapping[str, Any], *, origin: str, settings: SampleSettings
) -> Path:
    """Make the page beside the pictures."""
    levels = [
        {
            "t": f"{level.t:g}",
            "moved": percent(level.moved),
            "without": percent(level.moved_unconditional),
            "gain": f"{percent(level.gain_base)} → {percent(level.gain)}" if level.gain is not None else "",
            "shuffle": f"{percent(level.shuffle_gain_base)} → {percent(level.shuffle_gain)}",
        }
        for level in found.levels
    ]
    pairs = [
        {
            "caption": pair.caption,
            "base": embedded(folder / pair.base),
            "adapted": embedded(folder / pair.adapted),
            "text": f"{pair.distance:.3f} apart; two seeds are {found.another_seed.value:.3f} on average",
        }
        for pair in found.worst
    ]
    text = template("forgetting.html").render(
        name=name,
        headline=found.words(),
        lines=lines(found),
        advice=advice(found, run),
        n=found.evaluation.n,
        origin=origin,
        settings=settings.text,
        extractor=found.extractor,
        rows=results.rows(followed(found)),
        levels=levels,
        pairs=pairs,
    )
    path = folder / FILE
    atomic.write_text(path, text)
    return path


def percent(value: Interval | None) -> str:
    """A share with its interval; empty where there is none."""
    return "" if value is None else value.text("{:.0%}")
