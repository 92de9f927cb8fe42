"""Sets of pictures as extractors see them: what a set looks like is worked out once and kept by content."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pipeline.data.shards import Shards
from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.metrics.compared import Compared, Seen
from pipeline.evaluation.metrics.measure import Estimate, changes, measure
from pipeline.evaluation.metrics.table import METRICS, Metric
from pipeline.evaluation.picture_sets import kept
from pipeline.hashing import digest
from pipeline.progress import Progress

FOLDER = "features"  # of the cache
AT_ONCE = 64  # pictures between two words of progress


@dataclass(frozen=True)
class PictureSet:
    """A folder of pictures with its index, and which of them belong together."""

    folder: Path
    names: tuple[str, ...]  # of the reference's files in the dataset, () where there is none
    groups: tuple[int, ...]  # the number of each picture's caption: equal numbers in two sets belong together


def pairs(folder: Path, names: Sequence[str]) -> PictureSet:
    """A set with one picture to each caption, whose i-th belongs to the i-th of any other."""
    return PictureSet(folder, tuple(names), tuple(range(len(kept(folder)))))


def look(pictures: PictureSet, extractor: Extractor | None, cache: Path | None) -> Seen:
    """What an extractor sees in a set; with a cache, it looks only at pictures it has never seen."""
    rows = kept(pictures.folder)
    prompts, files = tuple(row["prompt"] for row in rows), [row["path"] for row in rows]
    features = captions = readings = None
    if extractor is not None and extractor.features is not None:
        features = torch.stack(_remembered(files, extractor, cache, _as_rows(extractor.features)))
    if extractor is not None and extractor.captions is not None:
        captions = extractor.captions(list(prompts))
    if extractor is not None and extractor.read is not None:
        readings = tuple(map(_text, _remembered(files, extractor, cache, _as_letters(extractor.read))))
    return Seen(
        groups=torch.tensor(pictures.groups),
        prompts=prompts,
        files=tuple(map(str, files)),
        names=pictures.names,
        features=features,
        captions=captions,
        readings=readings,
    )


Look = Callable[[list[Image.Image]], list[Tensor]]


def _as_rows(features: Callable[[list[Image.Image]], Tensor]) -> Look:
    """The rows of features one by one."""
    return lambda pictures: list(features(pictures))


def _as_letters(read: Callable[[list[Image.Image]], list[str]]) -> Look:
    """Texts as tensors, to be kept beside features."""
    return lambda pictures: [torch.tensor(list(text.encode() or b" "), dtype=torch.uint8) for text in read(pictures)]


def _text(letters: Tensor) -> str:
    return bytes(letters.tolist()).decode().strip()


def _remembered(files: list[Path], extractor: Extractor, cache: Path | None, look_at: Look) -> list[Tensor]:
    """What an extractor makes of each file, by the content of both."""
    shards = Shards(cache / FOLDER / extractor.version) if cache is not None and extractor.version else None
    keys = [digest(path.read_bytes()) for path in files]
    found: dict[str, Tensor] = {}
    if shards is not None:
        shards.look()
        found = {key: shards.load(key)["seen"] for key in dict.fromkeys(keys) if key in shards}
    unseen = [(key, path) for key, path in dict(zip(keys, files, strict=True)).items() if key not in found]
    try:
        with contextlib.closing(Progress(len(unseen), "picture looked at")) as progress:
            for first in range(0, len(unseen), AT_ONCE):
                some = unseen[first : first + AT_ONCE]
                for (key, _), seen in zip(some, look_at([_opened(path) for _, path in some]), strict=True):
                    found[key] = seen
                    if shards is not None:
                        shards.put(key, {"seen": seen})
                progress.update(first + len(some))
    finally:
        if shards is not None:
            shards.flush()
    return [found[key] for key in keys]


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")


def estimates(
    pictures: PictureSet,
    reference: PictureSet | None,
    extractors: Sequence[Extractor],
    *,
    metrics: Mapping[str, Metric] = METRICS,
    base: PictureSet | None = None,
    cache: Path | None = None,
) -> tuple[list[Estimate], list[Estimate]]:
    """All estimates of a set, and of their change from `base`, in the order of the table and of the extractors.

    `reference` is None where the reference itself is measured, or where there is none.
    """
    found, changed = list[Estimate](), list[Estimate]()
    for extractor in (None, *extractors):
        true = None if reference is None else look(reference, extractor, cache)
        now = Compared(look(pictures, extractor, cache), true, extractor)
        found += measure(now, metrics)
        if base is not None:
            changed += changes(now, Compared(look(base, extractor, cache), true, extractor), metrics)
    return _in_order(found, metrics), _in_order(changed, metrics)


def _in_order(found: list[Estimate], metrics: Mapping[str, Metric]) -> list[Estimate]:
    places = {name: place for place, name in enumerate(metrics)}
    return sorted(found, key=lambda estimate: places[estimate.metric])
