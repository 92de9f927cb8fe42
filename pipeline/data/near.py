"""Pictures that are nearly the same: found by a hash of their shapes and a sketch of their colours."""

import base64
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int64, UInt64
from PIL import Image

BITS = 64  # of a perceptual hash
MOST_BITS = 4  # in which the hashes of one picture may differ after it was scaled or compressed again
BANDS = MOST_BITS + 1  # of a hash: of two so near, at least one is equal (the pigeonhole principle)
MOST_IN_A_BAND = 2000  # pictures with a band in common that one is compared with: more are alike by chance
MOST_APART, MOST_ANYWHERE = 6.0, 24.0  # of 255, in the mean over the sketches of one picture, and in one place
HASH_SIDE, SKETCH_SIDE = 8, 4
SMALL = 64  # pixels: what both are made from
Places = Int64[np.ndarray, " n"]  # of pictures in a list
AreNear = Callable[[Places, Places], Bool[np.ndarray, " n"]]  # whether what is at these places looks alike too


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
    hashes = np.array([int(sketch[: BITS // 4], 16) for sketch in sketches], dtype=np.uint64)
    stored = b"".join(base64.b64decode(sketch[BITS // 4 :]) for sketch in sketches)
    colours = np.frombuffer(stored, dtype=np.uint8).reshape(len(sketches), -1)

    leader = np.arange(len(sketches))

    def are_near(first: Places, second: Places) -> Bool[np.ndarray, " n"]:
        """Equal hashes alone are many of small things on plain ground; what is together already is not looked at."""
        found: Bool[np.ndarray, " n"] = leader[first] != leader[second]
        apart = np.abs(colours[first[found]].astype(np.int16) - colours[second[found]])
        found[found] = (apart.mean(1) <= MOST_APART) & (apart.max(1) <= MOST_ANYWHERE)
        return found

    for pairs in matches(hashes, hashes, are_near):
        for one, other in zip(*(places.tolist() for places in pairs), strict=True):
            low, high = sorted((_root(leader, one), _root(leader, other)))
            leader[high] = low
        while not np.array_equal(leader, leader[leader]):
            leader[:] = leader[leader]
    return [int(place) for place in leader]


def _root(leader: Places, place: int) -> int:
    while leader[place] != place:
        place = int(leader[place])
    return place


def matches(
    first: UInt64[np.ndarray, " n"], second: UInt64[np.ndarray, " m"], are_near: AreNear
) -> Iterator[tuple[Places, Places]]:
    """The places of hashes of the one list and the other that differ in few bits, where `are_near` agrees.

    Hashes so near share a band. They come in parts, those with several bands in common several times.
    """
    edges = [round(BITS * number / BANDS) for number in range(BANDS + 1)]
    for low, high in itertools.pairwise(edges):
        mask = np.uint64((1 << (high - low)) - 1)
        mine, theirs = ((hashes >> np.uint64(low)) & mask for hashes in (first, second))
        order = np.argsort(theirs, kind="stable")
        in_order = theirs[order]
        begin, end = (np.searchsorted(in_order, mine, side) for side in ("left", "right"))
        # Of very many with a band in common, those whose places are nearest.
        keys = theirs[order].astype(np.int64) * len(second) + order
        own = np.searchsorted(keys, mine.astype(np.int64) * len(second) + np.arange(len(first)) - MOST_IN_A_BAND // 2)
        begin = np.maximum(begin, own)
        end = np.minimum(end, begin + MOST_IN_A_BAND)
        for offset in range(int((end - begin).max(initial=0))):
            places = np.flatnonzero(begin + offset < end)
            others = order[begin[places] + offset]
            few = np.bitwise_count(first[places] ^ second[others]) <= MOST_BITS
            places, others = places[few], others[few]
            near = are_near(places, others)
            if near.any():
                yield places[near], others[near]
