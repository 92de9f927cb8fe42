"""What is looked at: the whole dataset, read without refusing anything, and a few facts about each picture."""

import base64
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from jaxtyping import UInt8
from PIL import Image, ImageOps

from pipeline.data.images import Stored, described
from pipeline.data.manifest import Example, Manifest
from pipeline.data.options import DataOptions
from pipeline.data.reading import Gathered, OnRow, in_order
from pipeline.data.rows import FileSource, Findings, Row
from pipeline.data.sources import gather_sources, lenient
from pipeline.errors import DataError
from pipeline.progress import Progress
from pipeline.remembered import Remembered, cache_folder, remembered

VERSION = 2  # raise it when other facts are found out about a picture
SKETCH = 8  # a side of the sketch that pictures are compared by, in pixels
HASH_SIDE = 32  # what a perceptual hash is made from
AT_ONCE = 256  # pictures in memory
NOT_ONE = "not one of the "  # images has a caption: each is named anyway


@dataclass(frozen=True)
class Look:
    """What a picture file is, and what it shows in short."""

    stored: Stored
    spread: float  # standard deviation of its grey values, of 255
    mean: float  # of its grey values
    hash: int | None  # perceptual, 64 bits (ImageHash's phash); None where imagehash is not installed
    mirrored_hash: int | None  # of the mirrored picture
    sketch: UInt8[np.ndarray, "8 8 3"]  # the picture, very small


@dataclass(frozen=True)
class Survey:
    """A dataset as it is."""

    manifest: Manifest | None  # None where nothing of it can be used
    findings: Findings  # what reading it had to say
    bad: tuple[tuple[str, str], ...]  # pictures that cannot be used: name, reason
    uncaptioned: tuple[str, ...]  # names of pictures without a caption
    columns: dict[str, dict[str, Any]]  # the cells of each example's row, by its name
    looks: dict[str, Look]  # by the picture's hash


def survey(options: DataOptions, gather: Callable[[DataOptions, Findings, OnRow], Gathered] = gather_sources) -> Survey:
    """Look at everything that `gather` finds. Raises DataError where there is no dataset at all."""
    findings, bad, columns = Findings(), list[tuple[str, str]](), dict[str, dict[str, Any]]()
    uncaptioned = list[str]()

    def on_row(row: Row, example: Example | str) -> None:
        if isinstance(example, str):
            bad.append((row.name, example))
            return
        if not example.caption:
            uncaptioned.append(example.name)
        if isinstance(row.description, dict):
            columns[example.name] = row.description

    origin, counted, _ = gather(lenient(options), findings, on_row)
    skipping = {source.place for source in options.sources if source.missing_caption == "skip"}
    counted = [pair for pair in counted if pair[0].caption or pair[0].options.place not in skipping]
    findings.problems = [problem for problem in findings.problems if not problem.startswith(NOT_ONE)]
    try:
        manifest = in_order(origin, counted, findings)
    except DataError as error:
        if not (findings.problems or bad or uncaptioned):
            findings.problems.append(str(error))
        return Survey(None, findings, tuple(bad), tuple(uncaptioned), columns, {})
    return Survey(manifest, findings, tuple(bad), tuple(uncaptioned), columns, look_at(manifest))


def look_at(manifest: Manifest) -> dict[str, Look]:
    """A look at each picture, on all cores; what an earlier audit saw of an unchanged file is remembered."""
    by_place: dict[tuple[str, str], list[Example]] = {}
    for example in {example.image_id: example for example in manifest.examples}.values():
        by_place.setdefault((example.options.place, example.options.alpha_background), []).append(example)
    found: dict[str, Look] = {}
    for (place, _), distinct in by_place.items():
        found |= _look_at(os.path.realpath(place), distinct, distinct[0].options)
    return found


def _look_at(place: str, distinct: list[Example], options: DataOptions) -> dict[str, Look]:
    """The same for the pictures of one source."""
    kind = f"looks {VERSION}, Pillow {PIL.__version__}, {options.alpha_background}, hashes {_hasher() is not None}"
    found: dict[str, Look] = {}
    with (
        remembered(cache_folder(options.cache_dir), place, kind, whole=True) as known,
        closing(Progress(len(distinct), "picture")) as progress,
        ThreadPoolExecutor(os.cpu_count()) as threads,
    ):
        for first in range(0, len(distinct), AT_ONCE):
            some = distinct[first : first + AT_ONCE]
            for example, facts in zip(some, _facts_of(some, known, threads, options.alpha_background), strict=True):
                found[example.image_id] = _look_from(facts)
            progress.update(first + len(some))
    return found


def _facts_of(
    some: list[Example], known: Remembered, threads: ThreadPoolExecutor, background: str
) -> Iterator[list[Any]]:
    """The facts of some pictures as JSON holds them."""
    keys = [example.source.known_as() for example in some]
    recalled = [known.recall(name, signature) for name, signature in keys]
    new = [example for example, facts in zip(some, recalled, strict=True) if facts is None]
    made = iter(
        threads.map(functools.partial(facts_of, alpha_background=background), (e.source.content() for e in new))
    )
    for example, (name, signature), facts in zip(some, keys, recalled, strict=True):
        if facts is not None:
            yield facts
            continue
        fresh = next(made)
        known.keep(name, example.source.settled(signature), fresh)
        yield fresh


def facts_of(content: bytes, alpha_background: str) -> list[Any]:
    """What a look finds out about the bytes of a picture that is known to be one."""
    hasher = _hasher()
    picture, stored = described(content, alpha_background)
    small = picture.resize((HASH_SIDE * 2, HASH_SIDE * 2), Image.Resampling.BOX, reducing_gap=2.0)
    grey = np.asarray(small.convert("L"), dtype=np.float64)
    sketch = np.asarray(small.resize((SKETCH, SKETCH), Image.Resampling.BOX))
    hashes: list[str | None] = [None, None]
    if hasher is not None:
        hashes = [str(hasher.phash(shown)) for shown in (small, ImageOps.mirror(small))]
    numbers = [round(float(grey.std()), 2), round(float(grey.mean()), 2)]
    return [list(vars(stored).values()), *numbers, *hashes, base64.b64encode(sketch.tobytes()).decode()]


def _look_from(facts: list[Any]) -> Look:
    stored, spread, mean, plain, mirrored, sketch = facts
    values = np.frombuffer(base64.b64decode(sketch), np.uint8).reshape(SKETCH, SKETCH, 3)
    hashes = [None if text is None else int(text, 16) for text in (plain, mirrored)]
    return Look(Stored(*stored), spread, mean, hashes[0], hashes[1], values)


def _hasher() -> Any:
    """imagehash, or None where it is not installed."""
    try:
        import imagehash
    except ImportError:
        return None
    return imagehash


def links(examples: Iterable[Example]) -> Iterator[tuple[Example, Path]]:
    """The pictures that are links to files elsewhere, each with the file."""
    for example in examples:
        if isinstance(example.source, FileSource) and example.source.path.is_symlink():
            yield example, example.source.path.resolve()
