"""The verb: what an adapter does to captions that have nothing to do with what it was trained on."""

import contextlib
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline import records
from pipeline.commands.evaluation.drawing import Column, Drawer, claim
from pipeline.commands.evaluation.evaluate import judges_of
from pipeline.commands.evaluation.options import EvaluateOptions
from pipeline.commands.evaluation.subject import Subject, beside, subject_of
from pipeline.commands.evaluation.wanted import Wanted, lines_of
from pipeline.console import quiet_libraries, say, tell
from pipeline.data import pixels
from pipeline.errors import ConfigError
from pipeline.evaluation import forgetting, looking, results
from pipeline.evaluation.extractors import table as extractors
from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.forgetting import Asked, Forgetting, Pair
from pipeline.evaluation.looking import ADAPTED, BASE, PictureSet
from pipeline.evaluation.picture_sets import kept
from pipeline.evaluation.previews import spread
from pipeline.evaluation.validation import MAX_EXAMPLES, NUM_LEVELS, LossEvaluator, ValidationExample
from pipeline.geometry import whole
from pipeline.hashing import digest_of_file
from pipeline.objective.options import ObjectiveOptions
from pipeline.progress import Progress
from pipeline.remembered import cache_folder
from pipeline.report import forgetting_page

FIRST_SEED = 800_000
NUM_CAPTIONS, NUM_IMAGES = 60, 2  # where neither is given; of two pictures each, one shows what another seed does
LEAST = 12  # captions
BATCH = 4  # pictures whose predictions are asked for at once


def look(adapter: Path, options: EvaluateOptions, *, as_json: bool) -> None:
    """Draw, measure, make the page, and say what was found.

    Raises ConfigError, CheckpointError or DataError with what cannot be done, before anything is drawn.
    """
    if options.num_images < NUM_IMAGES:
        raise ConfigError(f"--num_images {options.num_images} must be at least {NUM_IMAGES}: two seeds are compared.")
    if options.limit is not None and options.limit < LEAST:
        raise ConfigError(f"--limit {options.limit} must be at least {LEAST}.")
    options.require_sound()
    with quiet_libraries():
        subject = subject_of(adapter, options)
        try:
            _look(adapter, options, subject, as_json=as_json)
        finally:
            subject.engine.release()


def _look(adapter: Path, options: EvaluateOptions, subject: Subject, *, as_json: bool) -> None:
    wanted, folder, engine = wanted_of(options, subject), folder_of(adapter, options), subject.engine
    judges = judges_of(options, subject, wanted)
    judge = next((one for one in reversed(judges) if one.features is not None), None)
    if judge is None:
        raise ConfigError("Nothing measures how far pictures move: name a vision model with --extractor.")
    column = Column("with the adapter", subject.file, options.scale)
    engine.on_main(lambda: claim(folder, {**subject.facts, **wanted.facts, **column.facts}, "pictures"))
    drawer = Drawer(subject)
    for name, one in {BASE: Column("the base"), ADAPTED: column}.items():
        drawer.draw(folder / name, one, wanted.requests)
    engine.close()
    if not engine.is_main:
        return
    sets = {name: wanted.set_in(folder / name) for name in (BASE, ADAPTED)}
    cache = cache_folder(options.cache_dir or subject.run.get("cache_dir"))
    levels = forgetting.levels(*asked(subject, column, sets[BASE]))
    found = measured(subject, judges, judge, sets, levels, cache)
    found.write(folder)
    page = forgetting_page.write(folder, adapter.resolve().name, found, subject.run, origin=wanted.origin)
    if as_json:
        say(json.dumps(records.to_json(found), indent=1))
    else:
        say("\n".join([found.words(), *forgetting_page.lines(found), *forgetting_page.advice(found, subject.run)]))
    tell(f"Report   {page}")


def wanted_of(options: EvaluateOptions, subject: Subject) -> Wanted:
    """Captions of --captions, else those that go with the base, and two seeds each.

    Raises DataError for a file that holds none, ConfigError for too few.
    """
    if options.captions is not None:
        captions, origin = lines_of(options.captions, "--captions"), f"{options.captions}"
    else:
        captions, origin = extractors.unrelated(subject.family.source), "a list that goes with t2i-lora"
    captions = tuple(dict.fromkeys(captions))
    if len(captions) < LEAST:
        raise ConfigError(f"{origin} holds {len(captions)} captions, and {LEAST} are the least that say something.")
    captions = tuple(spread(captions, min(len(captions), options.limit or NUM_CAPTIONS)))
    return Wanted(captions, options.num_images, FIRST_SEED + options.seed, (), False, origin)


def folder_of(adapter: Path, options: EvaluateOptions) -> Path:
    """Where pictures, numbers and page go. Raises ConfigError where nothing says so."""
    if options.to is None and not adapter.is_dir():
        raise ConfigError("Give a folder for the pictures with --to.")
    return options.to or beside(adapter, forgetting.FOLDER)


def measured(
    subject: Subject,
    judges: Sequence[Extractor],
    judge: Extractor,
    sets: dict[str, PictureSet],
    levels: tuple[forgetting.Level, ...],
    cache: Path | None,
) -> Forgetting:
    """All that is found of the pictures."""
    seen = {name: looking.look(pictures, judge, cache) for name, pictures in sets.items()}
    base, adapted, groups = seen[BASE].features, seen[ADAPTED].features, seen[BASE].groups
    assert base is not None
    assert adapted is not None
    apart = forgetting.distances(base, adapted)
    moved, another, share = forgetting.moved(base, apart, groups)
    worst = apart.argsort(descending=True).tolist()
    once = {seen[BASE].prompts[place]: place for place in reversed(worst)}  # the worst of each caption
    evaluation = results.of(seen[BASE].num_captions, judges, looking.estimates(sets, judges, cache=cache))
    assert subject.file is not None
    return Forgetting(
        adapter=digest_of_file(subject.file),
        extractor=judge.name,
        moved=moved,
        another_seed=another,
        share=share,
        levels=levels,
        worst=tuple(
            Pair(
                seen[BASE].prompts[place],
                f"{BASE}/{place:06d}.png",
                f"{ADAPTED}/{place:06d}.png",
                float(apart[place]),
            )
            for place in worst
            if once[seen[BASE].prompts[place]] == place
        )[: forgetting.MOST_PAIRS],
        evaluation=evaluation,
    )


@torch.no_grad()
def asked(subject: Subject, column: Column, pictures: PictureSet) -> tuple[Asked, Asked]:
    """What base and adapter predict for pictures of the base's own, from the very file, by the stock loader."""
    family, pipe = subject.family, subject.pipeline()
    denoiser, dtype = getattr(pipe, family.denoiser), subject.engine.precision.dtype
    examples = list(encoded(subject, pictures))
    captions = [example.caption for example in examples]
    others = [captions[place - 1] for place in range(len(captions))]
    conditions = 3 if family.supports_cfg else 2
    progress = Progress(2 * conditions * NUM_LEVELS * len(examples), "prediction")
    done = 0

    def ask() -> Asked:
        evaluator = LossEvaluator(
            path=family.path(ObjectiveOptions()),
            prompts=functools.cache(lambda caption: family.embed(pipe, caption)),
            ragged=family.ragged,
            batch_size=BATCH,
            device=subject.engine.device,
            dtype=dtype,
        )

        def predict(x_t: Tensor, t: Tensor, conditioning: Any) -> Tensor:
            nonlocal done
            done += len(x_t)
            progress.update(done)
            return family.denoise(denoiser, x_t.to(dtype), t, conditioning)

        without = evaluator.predictions(predict, examples, [None] * len(examples)) if family.supports_cfg else None
        return Asked(
            evaluator.predictions(predict, examples), evaluator.predictions(predict, examples, others), without
        )

    with contextlib.closing(progress):
        base = ask()
        assert column.file is not None
        pipe.load_lora_weights(column.file.parent, weight_name=column.file.name, adapter_name="lora")
        pipe.set_adapters("lora", column.scale)
        return base, ask()


def encoded(subject: Subject, pictures: PictureSet) -> Iterator[ValidationExample]:
    """The first picture of each caption, in latents."""
    with quiet_libraries():
        pipe = subject.family.load("vae").to(subject.engine.device)  # in float32: some overflow in half precision
    rows = list(zip(pictures.groups, kept(pictures.folder), strict=True))
    first = dict(reversed(rows))  # of each caption
    size_states = subject.family.size_states(whole(subject.settings.size))
    for row in spread([first[group] for group in sorted(first)], min(MAX_EXAMPLES, len(first))):
        with Image.open(row["path"]) as file:
            values = pixels.of_picture(file.convert("RGB"))
        mean, std = (part[0].float().cpu() for part in subject.family.encode_image(pipe, values[None]))
        yield ValidationExample(f"{row['prompt']} {row['seed']}", mean, std, row["prompt"], size_states)
