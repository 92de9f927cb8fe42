"""Whether a run learnt its training pictures by heart: losses, drawings of their captions, and copies."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline import records
from pipeline.adapter.denoiser import AdaptedDenoiser
from pipeline.adapter.names import FILE
from pipeline.commands.evaluation.drawing import Column, Drawer, claim
from pipeline.commands.evaluation.options import DrawOptions
from pipeline.commands.evaluation.subject import opened
from pipeline.commands.evaluation.wanted import Wanted
from pipeline.commands.places import beside
from pipeline.commands.sample import folder_of_run
from pipeline.console import quiet_libraries, say, tell
from pipeline.data import cache as caches
from pipeline.data.manifest import Example, Manifest, by_name, column, views_id_of
from pipeline.errors import ConfigError
from pipeline.evaluation import looking, memorisation, on_noise
from pipeline.evaluation.extractors import photographs
from pipeline.evaluation.extractors import table as extractors
from pipeline.evaluation.looking import ADAPTED, REFERENCE, PictureSet
from pipeline.evaluation.memorisation import Clique, Cliques, Copy, Memorisation
from pipeline.evaluation.metrics.compared import Seen
from pipeline.evaluation.previews import spread
from pipeline.evaluation.statistics import Interval
from pipeline.evaluation.validation import LossEvaluator, Predict, ValidationExample
from pipeline.hashing import digest_of_file
from pipeline.remembered import cache_folder
from pipeline.report import memorisation_page
from pipeline.run import build
from pipeline.run.context import RunContext, prepare
from pipeline.run.encode import encode
from pipeline.run.reopened import reopen
from pipeline.training import checkpoint, result, tracking

LEAST = 12  # pictures of each side
AT_ONCE = 32  # examples whose losses are measured between two looks at the cache


def look(place: Path, *, limit: int, num_images: int, extractor: str | None, to: Path | None, as_json: bool) -> None:
    """Measure a run or one of its checkpoints, make the page, and say what was found.

    Raises ConfigError for what is no run, or held too little out; CheckpointError for an extractor that is none.
    """
    for flag, value, least in (("limit", limit, LEAST), ("num_images", num_images, 1)):
        if value < least:
            raise ConfigError(f"--{flag} {value} must be at least {least}.")
    run = folder_of_run(place)
    command, data = reopen(run, place / FILE)
    folder, cache_dir = to or beside(place, memorisation.FOLDER), command.run.data.cache_dir
    with quiet_libraries():
        context = prepare(command.run, data, run, yielding=command.yielding)
        try:
            examples = sides(place, shown_in(run, step_of(place, run), data.manifest), data.held_out, limit)
            judge = extractors.by_name(extractor or photographs.KIND, pictured={}, cache_dir=cache_dir, weights=None)[0]
            sets = drawn(place, folder, examples, num_images)
            answers = asked(context, examples)
        finally:
            context.engine.release()
        if sets is None:
            return
        made, true = (looking.look(pictures, judge, cache_folder(cache_dir)) for pictures in sets)
    found = compared(answers, made, true, examples=examples, judge=judge.name, adapter=digest_of_file(place / FILE))
    found.write(folder)
    page = memorisation_page.write(folder, place.resolve().name, found)
    if as_json:
        say(json.dumps(records.to_json(found), indent=1))
    else:
        say("\n".join([found.words(), *memorisation_page.lines(found)]))
    tell(f"Report   {page}")


def step_of(place: Path, run: Path) -> int:
    """After which step the weights of a run or a checkpoint were as they lie there."""
    found = None if place == run else checkpoint.NAME.fullmatch(place.resolve().name)
    return int(found[1]) if found is not None else result.read(run).kept_step


def shown_in(run: Path, num_steps: int, manifest: Manifest) -> Manifest:
    """What of its dataset a run has shown in so many steps: by its own record, for its processes decided it too.

    Raises ConfigError without a record, CheckpointError for a damaged one.
    """
    if not (run / tracking.FILE).is_file():
        raise ConfigError(f"{run} has no {tracking.FILE}, which says what was trained on.")
    ids = {name for row in tracking.read(run) if row.step <= num_steps for name in row.ids}
    columns = [column(manifest.examples, name) for name in ("id", "copy")]
    pictures = [views_id_of(*pair) for pair in zip(*columns, strict=True)]
    seen = {picture for picture, name in zip(pictures, columns[0], strict=True) if name in ids}
    return manifest.of(np.flatnonzero([picture in seen for picture in pictures]))


def sides(place: Path, seen: Manifest, held_out: Manifest | None, limit: int) -> tuple[Example, ...]:
    """As many examples that were trained on as held-out ones, at most so many each, in this order.

    Raises ConfigError where there are too few.
    """
    others, members = by_name(held_out) if held_out is not None else [], by_name(seen.distinct())
    number = min(len(others), len(members), limit)
    if number < LEAST:
        what, step = f"held {len(others)} of its examples out", "more pictures, or a larger --validation_split"
        if len(others) > number:
            what, step = f"showed {len(members)} of its examples", "more steps, or a smaller --validation_split"
        raise ConfigError(f"{place} {what}, and {LEAST} on each side are the least to compare: train with {step}.")
    return (*spread(members, number), *spread(others, number))


@dataclass(frozen=True)
class Answers:
    """What the model itself says of each example."""

    gains: Float[Tensor, " n"]  # by how much the adapter lowers its loss, as a share of the base's
    known: Float[Tensor, " n"] | None  # how far its caption leads to a picture from pure noise
    reason: str | None = None  # for there being no such number


def asked(context: RunContext, examples: Sequence[Example]) -> Answers:
    """What adapter and base say of the examples, at equal levels and equal noise."""
    reason = None
    if not context.family.supports_cfg:
        reason = "this model has no unconditional prediction to compare with"
    elif len({example.caption for example in examples}) < len(examples):
        reason = "captions that several pictures share say nothing about one of them"
    context.engine.together(lambda: encode(context, examples))
    models = build.load_models(context)
    evaluator, denoiser = build.loss_evaluator(context, models), models.denoiser
    captioned = build.unguided(context, models)
    gains, on_either = [], []
    with denoiser.adapted.evaluating():
        for some in caches.batches(examples, AT_ONCE):
            rows = build.as_measured(context, some)
            sides = [_told(evaluator, denoiser, rows, reason is None, captioned)]
            with denoiser.adapted.disabled():
                sides.append(_told(evaluator, denoiser, rows, reason is None))
            (adapted, _), (base, _) = sides
            gains.append(1 - adapted / base)
            on_either.append(torch.stack([noise for _, noise in sides]))
    context.engine.close()
    now, before = torch.cat(on_either, 1)
    return Answers(torch.cat(gains), on_noise.known(now, before) if reason is None else None, reason)


def _told(
    evaluator: LossEvaluator,
    denoiser: AdaptedDenoiser,
    rows: list[ValidationExample],
    with_noise: bool,
    captioned: Predict | None = None,
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n k"]]:
    """The loss of each example, and what the model finds in pure noise; nothing of that where nobody asks.

    `captioned` predicts for captions where guidance is learnt, with that taken out.
    """
    losses = evaluator.errors(denoiser, rows, captioned=captioned).double().mean(1)
    found = on_noise.lengths_and_angles(evaluator, denoiser, rows) if with_noise else torch.empty(len(rows), 0)
    return losses, found


def drawn(
    place: Path, folder: Path, examples: Sequence[Example], num_images: int
) -> tuple[PictureSet, PictureSet] | None:
    """The drawings of every caption, and the true pictures; each process draws its share, and the main one has them."""
    captions = tuple(example.caption for example in examples)
    wanted = Wanted(captions, num_images, 0, tuple(examples), True, "training and held-out pictures")
    with opened(place, DrawOptions()) as subject:
        column = Column("with the adapter", subject.file)
        facts = {**subject.facts, **wanted.facts, **column.facts}
        subject.engine.on_main(lambda: claim(folder, facts, "pictures"))
        Drawer(subject).draw(folder / ADAPTED, column, wanted.requests)
    if not subject.engine.is_main:
        return None
    return wanted.set_in(folder / ADAPTED), wanted.reference_in(folder / REFERENCE, subject.settings.size)


def compared(
    answers: Answers, made: Seen, true: Seen, *, examples: Sequence[Example], judge: str, adapter: str
) -> Memorisation:
    """The figures; the first half of the examples is of training pictures."""
    assert made.features is not None
    assert true.features is not None
    number, captions = len(examples) // 2, [example.caption for example in examples]
    numbers = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
    of_true, of_drawn = (torch.tensor([numbers[text] for text in texts]) for texts in (captions, made.prompts))
    nearest, distances = memorisation.nearest(made.features, of_drawn, true.features, of_true)
    near, usual = distances[:number], distances[number:]
    threshold = float(usual.quantile(memorisation.RARE))
    copies = [place for place in near.argsort().tolist() if near[place] < threshold]
    same, apart, reasons = None, None, []
    if len(numbers) < len(examples):
        reasons.append("by_sameness and cliques: several pictures share a caption")
    else:  # captions of their own, each drawn as often
        times = len(made) // len(examples)
        if times > 1:
            same = memorisation.sameness(made.features, of_drawn, len(examples))
        if times >= memorisation.LEAST_CLIQUE:
            apart = memorisation.distances_within(made.features, of_drawn, len(examples))
        else:
            what = "cliques" if times > 1 else "by_sameness and cliques"
            reasons.append(f"{what}: --num_images {memorisation.LEAST_CLIQUE} draws enough of each caption")
    if num_unseen := int((~answers.gains.isfinite()).sum()):
        reasons.append(f"by_loss: the masks of {num_unseen} pictures let nothing of them be seen")
    if answers.reason is not None:
        reasons.append(f"by_noise: {answers.reason}")
    return Memorisation(
        adapter=adapter,
        n=number,
        extractor=judge,
        by_loss=_auc(answers.gains),
        by_drawing=memorisation.auc(-near, -usual),
        by_sameness=None if same is None else _auc(same),
        by_noise=None if answers.known is None else _auc(answers.known),
        distance=memorisation.ratio(near, usual),
        num_copies=len(copies),
        copies=tuple(
            Copy(
                captions[place],
                examples[place].name,
                f"{ADAPTED}/{nearest[place]:06d}.png",
                f"{REFERENCE}/{place:06d}.png",
                float(near[place]),
                float(usual.median()),
            )
            for place in copies[: memorisation.MOST_COPIES]
        ),
        cliques=None if apart is None else _cliques(apart, examples),
        left_out=tuple(reasons),
    )


def _auc(values: Float[Tensor, " n"]) -> Interval:
    """Members against others, without those that have no value."""
    return memorisation.auc(*(half[half.isfinite()] for half in values.chunk(2)))


def _cliques(apart: Float[Tensor, "m k k"], examples: Sequence[Example]) -> Cliques:
    """The captions whose drawings fall together; the drawings of each lie one after the other."""
    found, of = memorisation.cliques(apart), apart.shape[1]
    least = max(memorisation.LEAST_CLIQUE, math.ceil(of / 2))
    places = [place for place, clique in enumerate(found) if len(clique) >= least]
    members = [place for place in places if place < len(examples) // 2]
    largest = sorted(members, key=lambda place: -len(found[place]))[: memorisation.MOST_COPIES]
    return Cliques(
        least=least,
        of=of,
        members=len(members),
        others=len(places) - len(members),
        shown=tuple(
            Clique(
                examples[place].caption,
                examples[place].name,
                tuple(f"{ADAPTED}/{place * of + one:06d}.png" for one in found[place]),
                f"{REFERENCE}/{place:06d}.png",
            )
            for place in largest
        ),
    )
