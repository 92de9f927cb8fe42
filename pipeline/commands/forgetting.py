"""The verb: what an adapter does to captions that have nothing to do with what it was trained on."""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline import records
from pipeline.commands.evaluation.drawing import Column, Drawer, claim
from pipeline.commands.evaluation.evaluate import judges_of
from pipeline.commands.evaluation.options import ForgettingOptions
from pipeline.commands.evaluation.predictions import asked
from pipeline.commands.evaluation.subject import Subject, folder_for, opened
from pipeline.commands.evaluation.wanted import Wanted, lines_of
from pipeline.console import say, tell
from pipeline.errors import ConfigError
from pipeline.evaluation import forgetting, looking, results
from pipeline.evaluation.extractors import table as extractors
from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.forgetting import Forgetting, Pair
from pipeline.evaluation.looking import ADAPTED, BASE, PictureSet
from pipeline.evaluation.previews import spread
from pipeline.hashing import digest_of_file
from pipeline.remembered import cache_folder
from pipeline.report import forgetting_page

FIRST_SEED = 800_000
NUM_CAPTIONS, NUM_IMAGES = 60, 2  # where neither is given; of two pictures each, one shows what another seed does
LEAST = 12  # captions


def look(adapter: Path, options: ForgettingOptions, *, as_json: bool) -> None:
    """Draw, measure, make the page, and say what was found.

    Raises ConfigError, CheckpointError or DataError with what cannot be done, before anything is drawn.
    """
    options.require_sound(limit=LEAST, num_images=NUM_IMAGES)
    with opened(adapter, options) as subject:
        _look(adapter, options, subject, as_json=as_json)


def _look(adapter: Path, options: ForgettingOptions, subject: Subject, *, as_json: bool) -> None:
    wanted, folder, engine = (
        wanted_of(options, subject),
        folder_for(adapter, options, forgetting.FOLDER),
        subject.engine,
    )
    judges = judges_of(options, subject, wanted)
    judge = measuring(judges)
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
    found = measured(subject, judges, judge, sets=sets, levels=levels, cache=cache)
    found.write(folder)
    name, settings = adapter.resolve().name, subject.settings
    page = forgetting_page.write(folder, name, found, subject.run, origin=wanted.origin, settings=settings)
    if as_json:
        say(json.dumps(records.to_json(found), indent=1))
    else:
        say("\n".join([found.words(), *forgetting_page.lines(found), *forgetting_page.advice(found, subject.run)]))
    tell(f"Report   {page}")


def measuring(judges: Sequence[Extractor]) -> Extractor:
    """The last one in whose features distances are taken. Raises ConfigError where there is none."""
    for judge in reversed(judges):
        if judge.features is not None and judge.takes_distances:
            return judge
    raise ConfigError("Nothing measures how far pictures move: name a vision model with --extractor.")


def wanted_of(options: ForgettingOptions, subject: Subject) -> Wanted:
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


def measured(
    subject: Subject,
    judges: Sequence[Extractor],
    judge: Extractor,
    *,
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
