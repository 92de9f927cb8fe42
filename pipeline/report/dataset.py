"""What a run was trained on, as the page shows it: some pictures with their captions, and the whole in numbers."""

import collections
import contextlib
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.console import tell
from pipeline.data.buckets import LITTLE, Bucket, fields_shown, is_enlarged, share_cropped
from pipeline.data.cache import latent_key
from pipeline.data.class_images import ClassImages
from pipeline.data.groups import balance_of
from pipeline.data.manifest import Example, Manifest, at, column, written
from pipeline.data.options import DataOptions
from pipeline.data.shards import Shards
from pipeline.data.sources import names_of, shown_by_source
from pipeline.data.views import centre_view
from pipeline.errors import DataError
from pipeline.evaluation.picture_sets import INDEX, keep, kept
from pipeline.evaluation.previews import spread
from pipeline.evaluation.test_set import reference_picture
from pipeline.geometry import Size
from pipeline.training.result import DataFacts, Sides

FOLDER = "data"  # of samples/
MAX_SHOWN = 24
TILES, VERSION = "tiles", "1"  # of the cache; another version when the same view is shown otherwise
MAX_SIDE = 320  # pixels: a tile is half of that, on a fine screen all of it


@dataclass(frozen=True)
class Shown:
    """A dataset, and the stream in which it is shown: perhaps with pictures of a class beside it."""

    manifest: Manifest
    stream: Manifest
    buckets: tuple[Bucket, ...]

    def fields(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """Some fields of the dataset's own examples, each with every size it is shown at."""
        rows = fields_shown(self.stream.examples, self.buckets, "id", *names)
        if self.stream is self.manifest:
            return (row[1:] for row in rows)
        own = {*column(self.manifest.examples, "id")}
        return (row[1:] for row in rows if row[0] in own)


def keep_examples(seen: Shown, samples: Path, cache: Path) -> None:
    """Write some training pictures as the model sees them, cut from the centre, with their captions; shrunk to tiles.

    As large as they are seen, 24 of 1024 pixels take 8 s of CPU and 42 MB. `cache` has those of earlier runs.
    """
    names = column(seen.manifest.examples, "name")
    places = spread(sorted(range(len(names)), key=names.__getitem__), MAX_SHOWN)
    chosen = at(seen.manifest.examples, np.array(places))
    ids = {example.id for example in chosen}
    sizes = {example_id: size for example_id, size in seen.fields("id") if example_id in ids}
    rows = [
        {"file": f"{number:04d}.png", "name": example.name, "captions": list(example.captions)}
        for number, example in enumerate(chosen)
    ]
    pictures = _tiles([(example, sizes[example.id]) for example in chosen], Shards(cache / TILES / VERSION))
    keep(samples / FOLDER, pictures, rows, drawn=False)


def _tiles(shown: list[tuple[Example, Size]], made: Shards) -> list[Image.Image]:
    """Examples at their sizes, shrunk; a photograph of many megapixels is decoded for the first run alone."""
    try:
        made.look()
    except DataError as error:  # the training is done, and these can be made again
        tell(f"Some pictures of the data are made anew: {error}")
    tiles, fresh = [], {}
    for example, size in shown:
        key = latent_key(example, centre_view(example, size))
        if key in made:
            tile = made.load(key)["tile"]
        else:
            picture = reference_picture(example, size)
            picture.thumbnail((MAX_SIDE, MAX_SIDE))
            tile = fresh[key] = torch.from_numpy(np.array(picture))
        tiles.append(Image.fromarray(tile.numpy()))
    with contextlib.suppress(OSError):  # a full or write-protected disk costs the next run its time, no more
        for key, tile in fresh.items():
            made.put(key, {"tile": tile})
        made.flush()
    return tiles


def facts(options: DataOptions, held_out: Manifest | None, seen: Shown, of_class: ClassImages | None) -> DataFacts:
    """The dataset in numbers, for result.json."""
    manifest, sizes = seen.manifest, collections.Counter(seen.fields("size"))
    by_source = [examples for _, examples in shown_by_source(options, manifest)] if options.source else []
    sides = sorted(min(size.width, size.height) for size in column(manifest.examples, "size"))
    read = zip(*(column(manifest.examples, name) for name in ("captions", "options")), strict=True)
    captions = [caption for texts, how in read for caption in written(texts, how)]
    at_size: collections.Counter[Size] = collections.Counter()
    for (_, size), number in sizes.items():
        at_size[size] += number
    return DataFacts(
        examples=len(manifest.examples),
        held_out=len(held_out.examples) if held_out else 0,
        captions=len(captions),
        distinct_captions=len(set(captions)),
        words=statistics.median(len(caption.split()) for caption in captions),
        side=Sides(sides[0], sides[len(sides) // 2], sides[-1]),
        skipped=len(manifest.skipped),
        copies=len(manifest.duplicates),
        sizes={str(size): number for size, number in sorted(at_size.items())},
        enlarged=sum(number for case, number in sizes.items() if is_enlarged(*case)),
        cropped=share_cropped(sizes),
        sources=dict(zip(names_of(options), by_source, strict=False)),
        class_images=len(of_class.trained) if of_class is not None else 0,
        class_drawn=of_class.num_drawn_trained if of_class is not None else 0,
        balance=balance_of(manifest.examples, options.balance).text() if options.balance is not None else None,
    )


def section(samples: Path, found: DataFacts, size: Size) -> dict[str, Any] | None:
    """What the page shows; None for a run that kept nothing to show."""
    if not (samples / FOLDER / INDEX).is_file():
        return None
    return {"rows": kept(samples / FOLDER), "words": words(found, size)}


def words(found: DataFacts, size: Size) -> list[str]:
    """The dataset in sentences, each of which only appears where it says something."""
    side = found.side
    sizes = f"{side.smallest} to {side.largest} pixels (median {side.median})"
    if side.smallest == side.largest:
        sizes = f"{side.median} pixels"
    shown_at = f"the model sees {', '.join(f'{number} at {size}' for size, number in found.sizes.items())}"
    if len(found.sizes) < 2:
        shown_at = f"the model sees {next(iter(found.sizes), size)}"
    if found.cropped >= LITTLE:
        shown_at += f", for which {found.cropped:.0%} of all pixels are cut off"
    sentences = [
        f"{found.examples} examples to train on, {found.held_out} held out. Their shorter side is {sizes}; {shown_at}.",
        f"{found.captions} captions, {found.distinct_captions} of them different, {found.words:g} words in the median.",
    ]
    if found.sources:
        shares = (f"{name} {number / found.examples:.0%}" for name, number in found.sources.items())
        sentences.append(f"Of what an epoch shows, {', '.join(shares)}.")
    if found.balance is not None:
        sentences.append(f"The loss is weighed {found.balance}.")
    if found.class_images:
        sentences.append(f"Beside them {found.class_images} pictures of the class, shown as often as they are.")
    if found.enlarged:
        sentences.append(f"{found.enlarged} are too small for this and are enlarged: their softness is learnt too.")
    if found.distinct_captions < found.captions / 2:
        sentences.append("Most captions are alike, so the adapter cannot learn what tells the pictures apart.")
    if found.skipped:
        sentences.append(f"{found.skipped} were left out, as was asked; notes.txt names them.")
    if found.copies:
        sentences.append(f"{found.copies} exist more than once and weigh more for it; notes.txt names them.")
    return sentences
