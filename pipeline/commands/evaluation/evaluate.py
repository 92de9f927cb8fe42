"""The verb: draw, look, measure, compare, and make the page."""

import dataclasses
import json
from pathlib import Path

from pipeline import records
from pipeline.commands.evaluation.drawing import DRAWN, Column, Drawer, claim
from pipeline.commands.evaluation.options import EvaluateOptions
from pipeline.commands.evaluation.subject import Subject, beside, subject_of
from pipeline.commands.evaluation.wanted import Wanted, wanted_of
from pipeline.console import columns, quiet_libraries, say, tell
from pipeline.errors import ConfigError
from pipeline.evaluation import looking, results
from pipeline.evaluation.extractors import photographs, readers, vision
from pipeline.evaluation.extractors import table as extractors
from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.looking import ADAPTED, BASE, OTHER, REFERENCE, PictureSet
from pipeline.evaluation.metrics.table import METRICS, Metric
from pipeline.evaluation.picture_sets import kept
from pipeline.evaluation.results import Evaluation
from pipeline.remembered import cache_folder
from pipeline.report import evaluation_page

FOLDER = "evaluation"  # of an output folder


def evaluate(adapter: Path | None, options: EvaluateOptions, *, as_json: bool) -> None:
    """Measure a base or an adapter on captions, and an adapter against its base.

    Raises ConfigError, CheckpointError or DataError with what cannot be done, before anything is drawn.
    """
    options.require_sound()
    with quiet_libraries():
        subject = subject_of(adapter, options)
        try:
            _evaluate(adapter, options, subject, as_json=as_json)
        finally:
            subject.engine.release()


def _evaluate(adapter: Path | None, options: EvaluateOptions, subject: Subject, *, as_json: bool) -> None:
    wanted, folder, engine = wanted_of(adapter, options), folder_of(adapter, options), subject.engine
    other = sets_of(options.against, wanted) if options.against is not None else None
    judges = judges_of(options, subject, wanted)
    adapted = Column("with the adapter", subject.file, options.scale)
    facts = {**subject.facts, **wanted.facts, **adapted.facts}
    engine.on_main(lambda: claim(folder, facts, "an evaluation"))
    columns = {BASE: Column("the base")} | ({ADAPTED: adapted} if subject.file is not None else {})
    drawer = Drawer(subject, wanted.requests)
    for name, column in columns.items():
        drawer.draw(folder / name, column)
    engine.close()
    if not engine.is_main:
        return
    sets = {name: wanted.set_in(folder / name) for name in columns}
    if wanted.reference:
        sets[REFERENCE] = wanted.reference_in(folder / REFERENCE, subject.settings.size)
    metrics, notes = chosen(options.anyway, len(wanted.requests))
    if other is not None:
        sets[OTHER] = other
    cache = cache_folder(options.cache_dir or subject.run.get("cache_dir"))
    estimates = looking.estimates(sets, judges, metrics=metrics, cache=cache)
    found = results.of(len(wanted.captions), judges, estimates)
    found.write(folder)
    name = adapter.resolve().name if adapter is not None else str(options.base)
    page = evaluation_page.write(folder, name, found, wanted.origin, notes)
    if as_json:
        say(json.dumps(records.to_json(found), indent=1))
    else:
        say("\n".join(table(found)))
    for note in notes:
        tell(f"Note  {note}")
    tell(f"Report   {page}")


def folder_of(adapter: Path | None, options: EvaluateOptions) -> Path:
    """Where pictures, numbers and page go. Raises ConfigError where nothing says so."""
    if options.to is not None:
        return options.to
    if adapter is None or not adapter.is_dir():
        raise ConfigError("Give a folder for the pictures with --to.")
    return beside(adapter, FOLDER)


def judges_of(options: EvaluateOptions, subject: Subject, wanted: Wanted) -> tuple[Extractor, ...]:
    """All that looks at the pictures: by name, or what a run is measured with and whoever knows photographs.

    Raises CheckpointError for what cannot be loaded, ConfigError where there is nobody.
    """
    pictured, cache_dir = set(wanted.names), options.cache_dir
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
    return tuple(found)


def chosen(anyway: bool, num_pictures: int) -> tuple[dict[str, Metric], list[str]]:
    """The metrics that so many pictures allow, and a note for those that they do not."""
    metrics = dict(METRICS)
    if anyway:
        metrics = {
            name: dataclasses.replace(one, min_pictures=min(one.min_pictures, 12)) for name, one in METRICS.items()
        }
    few: dict[int, list[str]] = {}
    for one in metrics.values():
        if one.min_pictures > num_pictures:
            few.setdefault(one.min_pictures, []).append(one.plain or one.short)
    notes = [
        f"{', '.join(names)}: left out, {num_pictures} pictures are too few ({least})"
        + ("; --anyway measures it" if least > 12 else "")
        for least, names in few.items()
    ]
    return metrics, notes


def sets_of(folder: Path, wanted: Wanted) -> PictureSet:
    """The pictures of another evaluation, of the same captions with the same seeds. Raises ConfigError for others."""
    place = own if (own := beside(folder, FOLDER)).is_dir() else folder
    path = place / DRAWN
    if not path.is_file():
        raise ConfigError(f"--against {folder} holds no evaluation; evaluate that first, with the same captions.")
    facts = json.loads(path.read_text(encoding="utf-8"))
    if other := [name for name in ("captions", "num_images", "first_seed") if facts.get(name) != wanted.facts[name]]:
        raise ConfigError(f"--against {folder} was drawn with other {', '.join(other)}: nothing there is comparable.")
    which = ADAPTED if facts["adapter"] is not None else BASE
    if not all(row["path"].is_file() for row in kept(place / which)):
        raise ConfigError(f"--against {folder} is not finished; run `evaluate` on it again, it goes on.")
    return wanted.set_in(place / which)


def table(found: Evaluation) -> list[str]:
    """The estimates for a terminal, by extractor."""
    lines = list[str]()
    names = {"base": "base", "adapted": "adapter", "change": "change", "reference": "reference", "against": "against"}
    shown = [name for name in names if found.sets.get(name)]
    rows = results.rows(found)
    for extractor in dict.fromkeys(row.extractor for row in rows):
        lines += ["", extractor or "Without an extractor"]
        cells = [("", *(names[name] for name in shown))]
        cells += [(row.short, *(getattr(row, name) for name in shown)) for row in rows if row.extractor == extractor]
        lines += columns(cells)
    return lines[1:]
