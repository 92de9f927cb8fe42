"""What a picture of the starter world shows, thing by thing: read exactly, and said as its captions say it.

The judge names thing, count and size; colour and place are read off the pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.starter import judge, world
from pipeline.starter.judge import Judge

KIND = "captioner"
NAME = "starter-reader (the starter-judge, and pixels)"
DIFFERENT = 40  # of 255: what is no background differs by more in one channel
TEMPLATE = world.TEMPLATES[0]


@torch.no_grad()
def scenes(model: Judge, pictures: Sequence[Image.Image]) -> list[world.Scene]:
    """The scene that each picture shows."""
    found = []
    for first in range(0, len(pictures), judge.BATCH):
        some = list(pictures[first : first + judge.BATCH])
        (batch,) = judge.batches(some)
        verdicts = model(batch)
        guesses = zip(
            verdicts.concept.argmax(1).tolist(),
            verdicts.count.argmax(1).tolist(),
            verdicts.size.argmax(1).tolist(),
            some,
            strict=True,
        )
        for thing, count, size, picture in guesses:
            kind = (count + 1, world.SIZES[size])
            place = place_of(picture, kind)
            found.append(world.Scene(world.concepts()[thing], *kind, place, background(picture)))
    return found


def background(picture: Image.Image) -> str:
    """The palette colour nearest to the median of the picture's outermost pixels."""
    rim = _rim(np.asarray(picture.convert("RGB")).astype(np.float64))
    median = np.median(rim, axis=0)
    return min(world.COLOURS, key=lambda name: float(np.square(median - np.array(world.COLOURS[name])).sum()))


def place_of(picture: Image.Image, kind: tuple[int, str]) -> str:
    """Of the places that things of this count and size may have, the one where most of what is no background lies."""
    side = (world.SIDE_PIXELS, world.SIDE_PIXELS)
    values = np.asarray(picture.convert("RGB").resize(side)).astype(np.float64)
    ink = np.abs(values - np.median(_rim(values), axis=0)).max(2) > DIFFERENT
    rows, columns = np.mgrid[: side[0], : side[1]]

    def overlap(place: str) -> float:
        half = world.SIDES[kind] / 2
        covered = np.zeros_like(ink)
        for x, y in world.PLACES[kind][place]:
            covered |= (abs(columns - x) <= half) & (abs(rows - y) <= half)
        return float((ink & covered).sum() / max(1, (ink | covered).sum()))

    return max(world.PLACES[kind], key=overlap)


def _rim(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])


def extractor(model: Judge) -> Extractor:
    """The reader, in the place of an image-to-text model."""

    def read(pictures: list[Image.Image]) -> list[str]:
        return [scene.caption(TEMPLATE) for scene in scenes(model, pictures)]

    version = judge.extractor({}).version
    return Extractor(kind=KIND, name=NAME, version=f"{version}-reader", read=read, takes_distances=False)
