"""Pictures that are nearly the same: found by a hash of their shapes and a sketch of their colours."""

import base64
import bisect
import collections
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

BITS = 64  # of a perceptual hash
MOST_BITS = 4  # in which the hashes of one picture may differ after it was scaled or compressed again
BANDS = MOST_BITS + 1  # of a hash: of two so near, at least one is equal (the pigeonhole principle)
MOST_IN_A_BAND = 2000  # pictures with a band in common that one is compared with: more are alike by chance
MOST_APART, MOST_ANYWHERE = 6.0, 24.0  # of 255, in the mean over the sketches of one picture, and in one place
HASH_SIDE, SKETCH_SIDE = 8, 4
SMALL = 64  # pixels: what both are made from


def sketch_of(picture: Image.Image) -> str:
    """A picture in 80 letters: the difference hash (Krawetz 2013) of its grey values, and 4 x 4 mean colours.

    The hash says of 8 x 8 places whether it gets brighter to the right.
    """
    small = picture.convert("RGB").resize((SMALL, SMALL), Image.Resampling.BOX, reducing_gap=2.0)
    grey = np.asarray(small.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX), dtype=np.int16)
    colours = np.asarray(small.resize((SKETCH_SIDE, SKETCH_SIDE), Image.Resampling.BOX))
    bits = np.packbits(grey[:, 1:] > grey[:, :-1])
    return bits.tobytes().hex() + base64.b64encode(colours.tobytes()).decode()


def groups(sketches: Sequence[str]) -> list[int]:
    """For each picture the first one it is nearly the same as, directly or through others; its own place where none."""
    hashes = [int(sketch[: BITS // 4], 16) for sketch in sketches]
    colours = [np.frombuffer(base64.b64decode(sketch[BITS // 4 :]), dtype=np.uint8) for sketch in sketches]
    leader = list(range(len(sketches)))

    def find(place: int) -> int:
        while leader[place] != place:
            leader[place] = leader[leader[place]]
            place = leader[place]
        return place

    for first, second in candidates(hashes, hashes):
        if first < second and _are_near(colours[first], colours[second]):
            low, high = sorted((find(first), find(second)))
            leader[high] = low
    return [find(place) for place in range(len(sketches))]


def _are_near(first: UInt8[np.ndarray, " n"], second: UInt8[np.ndarray, " n"]) -> bool:
    """Whether two sketches may be of one picture: equal hashes alone are many of small things on plain ground."""
    apart = np.abs(first.astype(np.int16) - second.astype(np.int16))
    return bool(apart.mean() <= MOST_APART and apart.max() <= MOST_ANYWHERE)


def candidates(first: Sequence[int], second: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The places of hashes of the one list and the other that differ in few bits, found by the bands they share."""
    seen: set[tuple[int, int]] = set()
    edges = [round(BITS * number / BANDS) for number in range(BANDS + 1)]
    for low, high in itertools.pairwise(edges):
        mask = (1 << (high - low)) - 1
        by_band: dict[int, list[int]] = collections.defaultdict(list)
        for place, value in enumerate(second):
            by_band[value >> low & mask].append(place)
        for place, value in enumerate(first):
            alike = by_band[value >> low & mask]
            nearest = bisect.bisect(alike, place - MOST_IN_A_BAND // 2)
            for other in alike[nearest : nearest + MOST_IN_A_BAND]:
                if (value ^ second[other]).bit_count() <= MOST_BITS and (place, other) not in seen:
                    seen.add((place, other))
                    yield place, other
