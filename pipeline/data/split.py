"""Some images are held out of training, chosen by their content, so that what is learnt can be measured."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from pipeline.data.manifest import Example, Manifest, Places, at, column, letters
from pipeline.data.near import groups
from pipeline.errors import ConfigError
from pipeline.hashing import digest

DEFAULT_SHARE = 0.1
MIN_HELD_OUT = 4  # images: fewer say nothing
FEW = 0.9  # of the images that were to be held out: fewer are said
MIN_IMAGES = 40  # below, every image is needed for training unless a share is asked for
FOR_FEW = f"fewer than {MIN_IMAGES} images are all trained on, unless --validation_split is asked for"


def split(manifest: Manifest, share: float | None, *, yields: bool = False) -> tuple[Manifest, Manifest | None]:
    """Cut a dataset into what is trained on and what is held out (None when nothing is).

    Whole images are held out, with all their captions, copies and near copies, or a caption would leak its
    image; there each example counts once. The choice is by hash of the image: renaming, reordering or
    another seed changes nothing, and a few added images change it little. `share` is --validation_split;
    None stands for a tenth, and for none at all under MIN_IMAGES images, where a share that `yields`, a recipe's, gives
    way too. Raises ConfigError if a share leaves nothing to train on.
    """
    numbers, last = images_of(manifest)
    num_images = len(last)
    if share == 0 or ((share is None or yields) and num_images < MIN_IMAGES):
        return manifest, None
    num_held_out = max(MIN_HELD_OUT, round((DEFAULT_SHARE if share is None else share) * num_images))
    if num_held_out >= num_images:
        raise ConfigError(
            f"--validation_split {share:g} holds out {num_held_out} of {num_images} images (never fewer than "
            f"{MIN_HELD_OUT}), which leaves none to train on; give more images or --validation_split 0."
        )
    chosen, remark = _chosen(at(manifest.examples, last), num_held_out)
    held_out = chosen[numbers]
    kept_apart = at(manifest.examples, np.flatnonzero(held_out))
    trained = manifest.of(np.flatnonzero(~held_out))
    trained = dataclasses.replace(trained, notes=(*trained.notes, remark)) if remark else trained
    return trained, Manifest(manifest.origin, kept_apart).distinct()


def images_of(manifest: Manifest) -> tuple[Places, Int64[np.ndarray, " m"]]:
    """The number of each example's image, in the order of their ranks, and the last example of each image."""
    ranks = bytearray()
    for image_id in column(manifest.examples, "image_id"):
        ranks += bytes.fromhex(rank_of(image_id))
    high, low = np.frombuffer(ranks, dtype=">u8").astype(np.uint64).reshape(-1, 2).T
    order = np.lexsort((low, high))
    is_last = np.ones(len(order), dtype=bool)
    is_last[:-1] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = np.cumsum(is_last) - is_last
    return numbers, order[is_last]


def _chosen(images: Sequence[Example], number: int) -> tuple[Bool[np.ndarray, " m"], str]:
    """The first images, at most so many, those that are nearly the same together; and a remark where that is not so.

    Where such groups are too large for it, the smallest are held out, if they are half of the images at most.
    """
    sketches = letters(images, "sketch")
    firsts = np.arange(len(images)) if sketches is None or not sketches.size else groups(sketches)
    sizes, chosen = np.bincount(firsts), np.zeros(len(images), dtype=bool)
    found, least = 0, min(number, MIN_HELD_OUT)
    places = np.flatnonzero(sizes)
    for first in places:
        if found + sizes[first] <= number:
            chosen[first] = True
            found += int(sizes[first])
    rest = places[~chosen[places]]
    for first in rest[np.argsort(sizes[rest], kind="stable")]:
        if found < least and found + sizes[first] <= len(images) // 2:
            chosen[first] = True
            found += int(sizes[first])
    if found < least:
        alike = f"{sizes.max()} of {len(images)} images are nearly the same"
        return np.arange(len(images)) < number, f"{alike}, so near copies of what is trained on are held out"
    more = f"{found} of {len(images)} images are held out, not {number}: near copies stay together"
    return chosen[firsts], more if found > number or found < FEW * number else ""


def rank_of(image_id: str) -> str:
    """By which images are chosen: content alone, in an order of no other meaning."""
    return digest(f"held out\n{image_id}".encode())
