"""The page of forgetting: what moved and what was lost in words, noise level by noise level, and the worst pairs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import atomic
from pipeline.evaluation import results
from pipeline.evaluation.forgetting import LITTLE, Forgetting
from pipeline.evaluation.results import Row
from pipeline.evaluation.statistics import Interval
from pipeline.report.pictures import embedded
from pipeline.report.rendering import template

FILE = "report.html"
ADHERENCE = ("top1", "clip_margin", "r_precision", "rouge_l")  # how well pictures follow their captions


def lines(found: Forgetting) -> list[str]:
    """What was found as text, a sentence for each thing that a picture can lose."""
    apart, seed = found.moved.text("{:.3f}"), found.another_seed.text("{:.3f}")
    said = [
        f"{found.share.text('{:.0%}')}  of what another seed does to a picture, the adapter does "
        f"({apart} apart; two seeds of the base {seed})"
    ]
    said += [f"{row.change}  {row.label}: {row.base} before, {row.adapted} now" for row in followed(found)]
    without = [level.moved_unconditional for level in found.levels if level.moved_unconditional is not None]
    for name, moved in (("with", [level.moved for level in found.levels]), ("without", without)):
        if moved:
            t = found.levels[max(range(len(moved)), key=lambda k: moved[k].value)].t
            mean = sum(one.value for one in moved) / len(moved)
            said.append(f"{mean:.0%}  of the base's error its predictions {name} a caption moved, most at t = {t:g}")
    return said


def followed(found: Forgetting) -> list[Row]:
    """Before, now and the change of whatever says how well pictures follow their captions, and how they differ."""
    named = {one.metric: None for which in found.evaluation.sets.values() for one in which.values()}
    there = [name for name in (*ADHERENCE, "within_caption") if name in named]
    wanted = {
        results.key(one)
        for which in found.evaluation.sets.values()
        for one in which.values()
        if one.metric in there and (one.metric != "within_caption" or one.extractor == found.extractor)
    }
    kept = {which: {k: v for k, v in some.items() if k in wanted} for which, some in found.evaluation.sets.items()}
    return results.rows(results.Evaluation(found.evaluation.n, found.evaluation.extractors, kept))


def advice(found: Forgetting, run: Mapping[str, Any]) -> list[str]:
    """What would have kept more, by the options that the run had; nothing where little moved."""
    if found.share.high < LITTLE:
        return []
    said = []
    if not any(run.get(name) for name in ("trigger_word", "caption_prefix", "instance_prompt")):
        said.append(
            "No word calls it: it was trained to change every picture. With --caption_prefix it learns to change those "
            "whose captions hold the word."
        )
    return said


def write(folder: Path, name: str, found: Forgetting, run: Mapping[str, Any], *, origin: str) -> Path:
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
            "text": f"{pair.distance:.3f} apart, where another seed is {found.another_seed.value:.3f}",
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
        extractor=found.extractor,
        rows=followed(found),
        levels=levels,
        pairs=pairs,
    )
    path = folder / FILE
    atomic.write_text(path, text)
    return path


def percent(value: Interval | None) -> str:
    """A share with its interval; empty where there is none."""
    return "" if value is None else value.text("{:.0%}")
