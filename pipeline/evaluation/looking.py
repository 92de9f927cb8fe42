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

ADAPTED, BASE, REFERENCE, OTHER = SETS = ("adapted", "base", "reference", "other")
CHANGE, AGAINST = CHANGES = ("change", "against")
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
    sets: Mapping[str, PictureSet],
    extractors: Sequence[Extractor],
    *,
    metrics: Mapping[str, Metric] = METRICS,
    cache: Path | None = None,
) -> dict[str, list[Estimate]]:
    """All estimates of every set, and what changed, in the order of the table and of the extractors.

    The names of sets are those of SETS, each where there is one. 'change' goes from the base to the adapter, 'against'
    from the pictures of another evaluation to those of the adapter, or of the base where there is none.
    """
    found: dict[str, list[Estimate]] = {}
    for extractor in (None, *extractors):
        seen = {name: look(one, extractor, cache) for name, one in sets.items()}
        true = seen.get(REFERENCE)
        given = {name: Compared(one, true, extractor) for name, one in seen.items() if name != REFERENCE}
        for name, of_model in given.items():
            if name != OTHER:
                found.setdefault(name, []).extend(measure(of_model, metrics))
        if true is not None and true.names:  # strangers say nothing of their captions
            found.setdefault(REFERENCE, []).extend(measure(Compared(true, None, extractor), metrics))
        now = given.get(ADAPTED, given.get(BASE))
        for name, before in ((CHANGE, given.get(BASE)), (AGAINST, given.get(OTHER))):
            if now is not None and before is not None and now is not before:
                found.setdefault(name, []).extend(changes(now, before, metrics))
    places = {name: place for place, name in enumerate(metrics)}
    return {name: sorted(some, key=lambda estimate: places[estimate.metric]) for name, some in found.items()}
