"""All that a run is trained on: a folder, a table, or several sources, each with options of its own."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

from pipeline import shipped
from pipeline.data import listing
from pipeline.data.manifest import Example, Manifest
from pipeline.data.options import DataOptions
from pipeline.data.reading import Counted, Gathered, OnRow, gather, gather_table, manifest_of
from pipeline.data.rows import Findings, Row
from pipeline.errors import DataError

MAX_NAME = 100  # letters


def read_sources(options: DataOptions) -> Manifest:
    """Read all that is trained on, under the same rules: a folder, --dataset_name, or several sources."""

    def read() -> Manifest:
        return manifest_of(*gather_sources(options, Findings()))

    (source, *others) = options.sources
    if others or source.train_data_dir is None or not Path(source.train_data_dir).is_dir():
        return read()
    return listing.kept(Path(source.train_data_dir), source, read)


def gather_sources(options: DataOptions, findings: Findings, on_row: OnRow | None = None) -> Gathered:
    """What all sources hold; what is wrong goes to `findings`, and names begin with that of the source.

    Raises DataError for what is no dataset; of several, that is a finding too.
    """
    sources = options.sources
    if len(sources) == 1:
        return _gather_source(sources[0], findings, on_row)
    found: list[Counted] = []
    for label, source in zip(names_of(options), sources, strict=True):
        own = Findings()
        told = None if on_row is None else _labelled(on_row, label)
        try:
            _, counted, _ = _gather_source(source, own, told)
        except DataError as error:
            own.problems.append(str(error))
            counted = []
        if not (counted or own.problems):
            own.problems.append("there is no usable image in it")
        findings.take(own, label)
        found += [(_named(example, label), repeats) for example, repeats in counted]
    return " + ".join(sorted(names_of(options))), found, findings


def lenient(options: DataOptions) -> DataOptions:
    """The options with which reading refuses nothing: bad images are left out, missing captions are empty."""

    def how(prompt_weights: str) -> dict[str, Any]:
        read = "strip" if prompt_weights == "strip" else "keep"
        return {"on_bad_image": "skip", "missing_caption": "empty", "prompt_weights": read}

    own = options.prompt_weights
    tables = tuple({**table, **how(table.get("prompt_weights", own))} for table in options.source)
    return dataclasses.replace(options, **how(own), source=tables)


def names_of(options: DataOptions) -> tuple[str, ...]:
    """What the sources are called: the last part of folder or Hub id, numbered where two are alike.

    Which gets which number is decided by what they say for themselves, not by their order.
    """
    sources = options.sources
    bare = [Path(source.place).resolve().name if source.place else "starter" for source in sources]
    names: dict[int, str] = {}
    for place in sorted(range(len(sources)), key=lambda place: repr(sources[place].own)):
        numbered = (f"{bare[place]}-{number}" for number in itertools.count(2))
        free = itertools.chain([bare[place]], numbered)
        names[place] = next(name for name in free if name not in names.values())
    return tuple(names[place] for place in range(len(sources)))


def together(options: DataOptions) -> str:
    """What all sources are called in one name, whatever their order."""
    names = sorted(names_of(options))
    whole = "-and-".join(names)
    return whole if len(whole) <= MAX_NAME else f"{names[0][:MAX_NAME]}-and-{len(names) - 1}-more"


def shown_by_source(options: DataOptions, manifest: Manifest) -> list[tuple[int, int]]:
    """For each source, how many images of it are in a manifest, and how many examples these make in an epoch."""
    return [(len({example.image_id for example in own}), len(own)) for own in by_source(options, manifest)]


def by_source(options: DataOptions, manifest: Manifest) -> list[list[Example]]:
    """The examples of each source."""
    read_alike: dict[int, list[Example]] = {}  # one object for each source, as comparing options takes time
    for example in manifest.examples:
        read_alike.setdefault(id(example.options), []).append(example)
    found: dict[Any, list[Example]] = {}
    for examples in read_alike.values():
        found.setdefault(examples[0].options.own, []).extend(examples)
    return [found.get(source.own, []) for source in options.sources]


def _gather_source(options: DataOptions, findings: Findings, on_row: OnRow | None) -> Gathered:
    if options.dataset_name is not None:
        return gather_table(options, findings, on_row)
    place = Path(options.train_data_dir) if options.train_data_dir else shipped.TRAIN
    return gather(place, options, findings, on_row=on_row)


def _named(example: Example, label: str) -> Example:
    return dataclasses.replace(example, name=f"{label}/{example.name}")


def _labelled(on_row: OnRow, label: str) -> OnRow:
    def told(row: Row, example: Example | str) -> None:
        name = f"{label}/{row.name}"
        on_row(dataclasses.replace(row, name=name), example if isinstance(example, str) else _named(example, label))

    return told
