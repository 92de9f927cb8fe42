"""Whether a run learnt its training pictures by heart: losses, drawings of their captions, and copies."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline import records
from pipeline.adapter.names import FILE
from pipeline.commands.evaluation.drawing import Column, Drawer, claim
from pipeline.commands.evaluation.options import EvaluateOptions
from pipeline.commands.evaluation.subject import beside, subject_of
from pipeline.commands.evaluation.wanted import Wanted
from pipeline.commands.sample import folder_of_run
from pipeline.config import Command
from pipeline.console import quiet_libraries, say, tell
from pipeline.data import cache as caches
from pipeline.data.manifest import Example, by_name
from pipeline.errors import ConfigError
from pipeline.evaluation import looking, memorisation
from pipeline.evaluation.extractors import photographs
from pipeline.evaluation.extractors import table as extractors
from pipeline.evaluation.looking import ADAPTED, REFERENCE, PictureSet
from pipeline.evaluation.memorisation import Copy, Memorisation
from pipeline.evaluation.metrics.compared import Seen
from pipeline.evaluation.previews import spread
from pipeline.hashing import digest_of_file
from pipeline.remembered import cache_folder
from pipeline.report import memorisation_page
from pipeline.run import build
from pipeline.run.context import RunContext, prepare
from pipeline.run.encode import encode
from pipeline.run.preflight import RunData
from pipeline.run.reopened import reopen

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
    members, others = sides(run, data, limit)
    folder = to or beside(place, memorisation.FOLDER)
    examples = (*members, *others)
    with quiet_libraries():
        cache_dir = command.run.data.cache_dir
        judge = extractors.by_name(extractor or photographs.KIND, pictured={}, cache_dir=cache_dir, weights=None)[0]
        sets = drawn(place, folder, examples, num_images)
        gains = losses(command, data, run, examples)
        if sets is None:
            return
        made, true = (looking.look(pictures, judge, cache_folder(cache_dir)) for pictures in sets)
    found = compared(gains, made, true, examples=examples, judge=judge.name, adapter=digest_of_file(place / FILE))
    found.write(folder)
    page = memorisation_page.write(folder, place.resolve().name, found)
    if as_json:
        say(json.dumps(records.to_json(found), indent=1))
    else:
        say("\n".join([found.words(), *memorisation_page.lines(found)]))
    tell(f"Report   {page}")


def sides(run: Path, data: RunData, limit: int) -> tuple[list[Example], list[Example]]:
    """As many training examples as held-out ones, at most so many. Raises ConfigError where there are too few."""
    held_out = by_name(data.held_out) if data.held_out is not None else []
    trained = by_name(data.manifest.distinct())
    number = min(len(held_out), len(trained), limit)
    if number < LEAST:
        what = f"{len(held_out)} of its examples out" if len(held_out) == number else f"all but {number} out"
        raise ConfigError(
            f"{run} held {what}, and {LEAST} on each side are the least to compare: train with "
            f"{'more pictures, or a larger' if len(held_out) == number else 'more pictures, or a smaller'} "
            "--validation_split."
        )
    return spread(trained, number), spread(held_out, number)


def losses(command: Command, data: RunData, run: Path, examples: Sequence[Example]) -> Float[Tensor, " n"]:
    """By how much the adapter lowers the loss of each example, as a share of the base's, at equal levels and noise."""
    context: RunContext = prepare(command.run, data, run, yielding=command.yielding)
    try:
        context.engine.together(lambda: encode(context, examples))
        models = build.load_models(context)
        evaluator, denoiser = build.loss_evaluator(context, models), models.denoiser
        found = []
        with denoiser.adapted.evaluating():
            for some in caches.batches(examples, AT_ONCE):
                rows = build.as_measured(context, some)
                adapted = evaluator.errors(denoiser, rows).double().mean(1)
                with denoiser.adapted.disabled():
                    base = evaluator.errors(denoiser, rows).double().mean(1)
                found.append(1 - adapted / base)
        context.engine.close()
        return torch.cat(found)
    finally:
        context.engine.release()


def drawn(
    place: Path, folder: Path, examples: Sequence[Example], num_images: int
) -> tuple[PictureSet, PictureSet] | None:
    """The drawings of every caption, and the true pictures; each process draws its share, and the main one has them."""
    captions = tuple(example.caption for example in examples)
    wanted = Wanted(captions, num_images, 0, tuple(examples), True, "training and held-out pictures")
    subject = subject_of(place, EvaluateOptions())
    try:
        column = Column("with the adapter", subject.file)
        facts = {**subject.facts, **wanted.facts, **column.facts}
        subject.engine.on_main(lambda: claim(folder, facts, "pictures"))
        Drawer(subject, wanted.requests).draw(folder / ADAPTED, column)
    finally:
        subject.engine.release()
    if not subject.engine.is_main:
        return None
    return wanted.set_in(folder / ADAPTED), wanted.reference_in(folder / REFERENCE, subject.settings.size)


def compared(
    gains: Float[Tensor, " m"], made: Seen, true: Seen, *, examples: Sequence[Example], judge: str, adapter: str
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
    same = None
    if len(numbers) == len(examples) < len(made):  # captions of their own, each drawn several times
        same = memorisation.sameness(made.features, of_drawn, len(examples))
    return Memorisation(
        adapter=adapter,
        n=number,
        extractor=judge,
        by_loss=memorisation.auc(gains[:number], gains[number:]),
        by_drawing=memorisation.auc(-near, -usual),
        by_sameness=None if same is None else memorisation.auc(same[:number], same[number:]),
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
    )
