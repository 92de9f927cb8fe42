"""The verb: draw the groups and the neutral prompts, measure each group, and make the page."""

import collections
import json
from collections.abc import Sequence
from pathlib import Path

from pipeline import records
from pipeline.commands.evaluation.drawing import Column, Drawer, claim
from pipeline.commands.evaluation.evaluate import judges_of
from pipeline.commands.evaluation.subject import Subject, opened
from pipeline.commands.fairness.groups import Chosen, chosen
from pipeline.commands.fairness.options import FairnessOptions
from pipeline.commands.places import beside
from pipeline.console import say, tell
from pipeline.errors import ConfigError
from pipeline.evaluation import looking
from pipeline.evaluation.adapter_hash import hash_of
from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.fairness import record, representation
from pipeline.evaluation.fairness.measuring import Parity, parities
from pipeline.evaluation.fairness.naming import named_in
from pipeline.evaluation.fairness.record import Fairness
from pipeline.evaluation.fairness.representation import Representation
from pipeline.evaluation.looking import ADAPTED, BASE, REFERENCE, PictureSet
from pipeline.remembered import cache_folder
from pipeline.report import fairness_page

NEUTRAL = {BASE: "neutral-base", ADAPTED: "neutral-adapted"}  # folders
NO_READER = "Nothing says which group a picture shows: name an image-to-text model with --captioner."


def measure(place: Path, options: FairnessOptions, *, as_json: bool) -> None:
    """Measure the groups of a run or one of its checkpoints, make the page, and say what was found.

    Raises ConfigError, CheckpointError or DataError with what cannot be done, before anything is drawn.
    """
    options.require_sound()
    with opened(place, options.of_evaluation) as subject:
        _measure(place, options, subject, as_json=as_json)


def _measure(place: Path, options: FairnessOptions, subject: Subject, *, as_json: bool) -> None:
    groups, folder = chosen(place, options), options.to or beside(place, record.FOLDER)
    judges = _judges_of(options, subject, groups)
    columns = {BASE: Column("the base"), ADAPTED: Column("with the adapter", subject.file)}
    facts = {**subject.facts, **groups.wanted.facts, **columns[ADAPTED].facts}
    facts |= {"by": groups.by, "of_caption": list(groups.grouping.of_caption)}
    facts["neutral"] = [[request.prompt, request.seed] for request in groups.neutral]
    subject.engine.on_main(lambda: claim(folder, facts, "pictures of groups"))
    drawer = Drawer(subject)
    for name, column in columns.items():
        drawer.draw(folder / name, column, groups.wanted.requests)
        if groups.neutral:
            drawer.draw(folder / NEUTRAL[name], column, groups.neutral)
    subject.engine.close()
    if not subject.engine.is_main:
        return
    cache = cache_folder(options.cache_dir or subject.run.get("cache_dir"))
    adapter = hash_of(place)
    assert adapter is not None
    found = Fairness(
        adapter=adapter,
        by=groups.by,
        is_column=groups.is_column,
        is_balanced=groups.is_column and subject.run.get("balance") == groups.by,
        num_images=options.num_images,
        origin=groups.wanted.origin,
        groups=groups.groups,
        parities=_parities(folder, groups, judges, subject, cache),
        representation=represented(folder, options.target, groups, judges, cache) if groups.neutral else None,
    )
    found.write(folder)
    page = fairness_page.write(folder, place.resolve().name, found, groups.grouping, notes=list(groups.notes))
    if as_json:
        say(json.dumps(records.to_json(found), indent=1))
    else:
        say("\n".join([found.words(), *fairness_page.lines(found), *found.advice()]))
    for note in groups.notes:
        tell(f"Note  {note}")
    tell(f"Report   {page}")


def _judges_of(options: FairnessOptions, subject: Subject, groups: Chosen) -> list[Extractor]:
    """Who looks, of all that are named or known. Raises ConfigError where nobody can say what is asked."""
    known = judges_of(options.of_evaluation, subject, groups.wanted)
    found = [judge for judge in known if _is_of_use(judge, groups)]
    if groups.prompts and not any(_reads(judge) for judge in found):
        raise ConfigError(NO_READER)
    if not found:
        raise ConfigError(
            "Nothing says how pictures follow their captions: name a CLIP with --extractor, or --captioner."
        )
    return found


def _is_of_use(judge: Extractor, groups: Chosen) -> bool:
    """Whether it says how a picture follows its caption, or how far pictures are from true ones."""
    follows = judge.captions is not None or judge.read is not None or (judge.ranks is not None and groups.wanted.names)
    return bool(follows) or (judge.takes_distances and groups.wanted.is_paired)


def _reads(judge: Extractor) -> bool:
    return judge.read is not None and not judge.reads_letters


def _parities(
    folder: Path, groups: Chosen, judges: Sequence[Extractor], subject: Subject, cache: Path
) -> tuple[Parity, ...]:
    sets = {name: groups.wanted.set_in(folder / name) for name in (BASE, ADAPTED)}
    if groups.wanted.reference:
        sets[REFERENCE] = groups.wanted.reference_in(folder / REFERENCE, subject.settings.size)
    found = list[Parity]()
    for judge in judges:
        seen = {name: looking.look(one, judge, cache) for name, one in sets.items()}
        found += parities(seen[BASE], seen[ADAPTED], seen.get(REFERENCE), judge, groups.grouping)
    return tuple(sorted(found, key=lambda one: record.ORDER.index(one.metric)))


def represented(folder: Path, target: str, groups: Chosen, judges: Sequence[Extractor], cache: Path) -> Representation:
    """What the first reader names in the pictures of the neutral prompts."""
    reader, names = next(judge for judge in judges if _reads(judge)), tuple(groups.given)
    trained = groups.trained or {}
    wanted = {name: 1 / len(names) for name in names}
    if target == "data":
        wanted = {name: trained.get(name, 0) / sum(trained.values()) for name in names}
    found = {}
    for which in (BASE, ADAPTED):
        pictures = PictureSet(folder / NEUTRAL[which], (), tuple(range(len(groups.neutral))))
        said = looking.look(pictures, reader, cache).readings
        assert said is not None
        counts = collections.Counter(named_in(text, names) for text in said)
        found[which] = representation.shares({name: counts[name] for name in names}, counts[None], wanted)
    read = [sum(one.counts.values()) for one in found.values()]
    return Representation(
        reader=reader.name,
        prompts=groups.prompts,
        n=len(groups.neutral),
        target_name=target,
        target=wanted,
        base=found[BASE],
        adapted=found[ADAPTED],
        change=representation.change(found[ADAPTED], found[BASE]),
        by_chance=representation.by_chance(wanted, max(1, read[1])),
    )
