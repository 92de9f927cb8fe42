"""The verb: draw, look, measure, compare, and make the page."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import records
from pipeline.commands.evaluation.drawing import Column, Drawer, claim, recorded
from pipeline.commands.evaluation.options import DrawOptions, EvaluateOptions
from pipeline.commands.evaluation.subject import Subject, folder_for, opened
from pipeline.commands.evaluation.wanted import Wanted, wanted_of
from pipeline.commands.places import beside
from pipeline.console import columns, say, tell
from pipeline.errors import ConfigError
from pipeline.evaluation import looking, results
from pipeline.evaluation.extractors import photographs, readers, vision
from pipeline.evaluation.extractors import table as extractors
from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.looking import ADAPTED, BASE, OTHER, REFERENCE, PictureSet
from pipeline.evaluation.metrics import adherence
from pipeline.evaluation.metrics.measure import FEWEST
from pipeline.evaluation.metrics.table import METRICS, Metric
from pipeline.evaluation.picture_sets import INDEX
from pipeline.evaluation.results import Evaluation
from pipeline.notes import grouped
from pipeline.remembered import cache_folder
from pipeline.report import evaluation_page

FOLDER = "evaluation"  # of an output folder
ANYWAY = 12  # pictures, from which on --anyway measures everything


def evaluate(adapter: Path | None, options: EvaluateOptions, *, as_json: bool) -> None:
    """Measure a base or an adapter on captions, and an adapter against its base.

    Raises ConfigError, CheckpointError or DataError with what cannot be done, before anything is drawn.
    """
    options.require_sound()
    with opened(adapter, options) as subject:
        _evaluate(adapter, options, subject, as_json=as_json)


def _evaluate(adapter: Path | None, options: EvaluateOptions, subject: Subject, *, as_json: bool) -> None:
    wanted, folder, engine = wanted_of(adapter, options), folder_for(adapter, options, FOLDER), subject.engine
    adapted = Column("with the adapter", subject.file, options.scale)
    facts = {**subject.facts, **wanted.facts, **adapted.facts}
    other, notes = against(options.against, wanted, facts) if options.against is not None else (None, [])
    judges = judges_of(options, subject, wanted)
    engine.on_main(lambda: claim(folder, facts, "an evaluation"))
    columns = {BASE: Column("the base")} | ({ADAPTED: adapted} if subject.file is not None else {})
    drawer = Drawer(subject)
    for name, column in columns.items():
        drawer.draw(folder / name, column, wanted.requests)
    engine.close()
    if not engine.is_main:
        return
    sets = {name: wanted.set_in(folder / name) for name in columns}
    if wanted.reference:
        sets[REFERENCE] = wanted.reference_in(folder / REFERENCE, subject.settings.size)
    metrics, left_out = chosen(options.anyway, wanted, judges)
    notes += left_out
    if other is not None:
        sets[OTHER] = other
    cache = cache_folder(options.cache_dir or subject.run.get("cache_dir"))
    estimates = looking.estimates(sets, judges, metrics=metrics, cache=cache)
    found = results.of(len(wanted.captions), judges, estimates)
    found.write(folder)
    name = adapter.resolve().name if adapter is not None else str(options.base)
    shown = [*notes, *grouped(drawer.cut)]
    page = evaluation_page.write(folder, name, found, sets, origin=wanted.origin, notes=shown)
    if as_json:
        say(json.dumps(records.to_json(found), indent=1))
    else:
        say("\n".join(table(found)))
    for note in notes:
        tell(f"Note  {note}")
    tell(f"Report   {page}")


def judges_of(options: DrawOptions, subject: Subject, wanted: Wanted) -> tuple[Extractor, ...]:
    """All that looks at the pictures: by name, or what a run is measured with and whoever knows photographs.

    Raises CheckpointError for what cannot be loaded, ConfigError where there is nobody.
    """
    pictured = dict(zip(wanted.names, (request.prompt for request in wanted.requests), strict=False))
    cache_dir = options.cache_dir or subject.run.get("cache_dir")
    names = list(options.extractor or [])
    if not names:
        card = extractors.named(subject.run.get("clip_model_name_or_path"), subject.family.source)
        names = [*([card] if card is not None else []), *([photographs.KIND] if photographs.is_installed() else [])]
    found = [
        judge
        for name in dict.fromkeys(names)
        for judge in extractors.by_name(name, pictured=pictured, cache_dir=cache_dir, weights=options.inception_weights)
    ]
    own = next((name for name in names if name in extractors.BUILT_IN), None)
    if (reader := options.captioner or own) is not None:
        found.append(extractors.captioner(reader))
    if options.ocr_model is not None:
        found.append(readers.letters(options.ocr_model))
    if options.aesthetic_model is not None:
        found.append(vision.aesthetic(options.aesthetic_model, cache_dir))
    if not found:
        raise ConfigError(f"Nothing measures the pictures: name something with --extractor. {photographs.MISSING}")
    return extractors.told_apart(found)


def chosen(anyway: bool, wanted: Wanted, judges: Sequence[Extractor]) -> tuple[dict[str, Metric], list[str]]:
    """The metrics that so many pictures allow, and a note for those that they do not."""
    number = min(len(wanted.requests), len(wanted.reference) or len(wanted.requests))
    least = {name: min(one.min_pictures, ANYWAY) if anyway else one.min_pictures for name, one in METRICS.items()}
    metrics = {name: dataclasses.replace(one, min_pictures=least[name]) for name, one in METRICS.items()}
    few: dict[int, list[str]] = {}
    if wanted.reference and any(judge.takes_distances for judge in judges):
        for one in metrics.values():
            if one.min_pictures > number:
                few.setdefault(one.min_pictures, []).append(one.plain or one.short)
    notes = [
        f"{', '.join(names)}: left out, {number} pictures are too few ({needed})"
        + ("; --anyway measures it" if number >= ANYWAY else "")
        for needed, names in few.items()
    ]
    if len(wanted.captions) < FEWEST:
        notes.append(f"{len(wanted.captions)} captions: nothing that compares whole sets is measured below {FEWEST}")
    if any(judge.read is not None and not judge.reads_letters for judge in judges) and not adherence.has_bleu():
        metrics = {name: one for name, one in metrics.items() if name not in adherence.BLEU}
        notes.append("BLEU: left out, its package sacrebleu is in the extra 'eval' (pip install 't2i-lora[eval]')")
    return metrics, notes


def against(folder: Path, wanted: Wanted, facts: Mapping[str, Any]) -> tuple[PictureSet, list[str]]:
    """The pictures of another evaluation of the same captions with the same seeds, and what else is otherwise there.

    Raises ConfigError for what is none.
    """
    place = own if (own := beside(folder, FOLDER)).is_dir() else folder
    before = recorded(place)
    if before is None:
        raise ConfigError(f"--against {folder} holds no evaluation; evaluate that first, with the same captions.")
    if other := [name for name in ("captions", "num_images", "first_seed") if before.get(name) != facts[name]]:
        raise ConfigError(f"--against {folder} was drawn with other {', '.join(other)}: nothing there is comparable.")
    drawn = wanted.set_in(place / (ADAPTED if before.get("adapter") is not None else BASE))
    names = [INDEX, *(f"{number:06d}.png" for number in range(len(wanted.requests)))]
    if not all((drawn.folder / name).is_file() for name in names):
        raise ConfigError(f"--against {folder} is not finished; run `evaluate` on it again, it goes on.")
    others = [name for name in facts if before.get(name) != facts[name]]
    return drawn, [f"Against {folder}, which was drawn with other {', '.join(others)}."] if others else []


def table(found: Evaluation) -> list[str]:
    """The estimates for a terminal, by extractor."""
    lines = list[str]()
    shown = {name: title for name, title in results.TITLES.items() if found.sets.get(name)}
    rows = results.rows(found)
    for extractor in dict.fromkeys(row.extractor for row in rows):
        lines += ["", extractor or "Without an extractor"]
        cells = [("", *shown.values())]
        cells += [(row.short, *(getattr(row, name) for name in shown)) for row in rows if row.extractor == extractor]
        lines += columns(cells)
    return lines[1:]
