"""Pictures that are nearly the same: found by a hash of their shapes and a sketch of their colours."""

import base64
import binascii
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64
from PIL import Image

BITS = 64  # of a perceptual hash
MOST_BITS = 4  # in which the hashes of one picture may differ after it was scaled or compressed again
FEW = 2**18  # pictures for which a key is one part in five of the hash; of more, two in six, as fewer share that
MOST_WITH_A_KEY = 2000  # pictures with a key in common that one is compared with: more are alike by chance
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


def groups(sketches: UInt8[np.ndarray, "n 80"]) -> Places:
    """For each picture the first one it is nearly the same as, directly or through others; its own place where none.

    `sketches` are their letters, as bytes.
    """
    hexed, coded = (part.tobytes() for part in (sketches[:, : BITS // 4], sketches[:, BITS // 4 :]))
    hashes = np.frombuffer(binascii.unhexlify(hexed), dtype=">u8").astype(np.uint64)
    colours = np.frombuffer(binascii.a2b_base64(coded), dtype=np.uint8).reshape(len(sketches), -1)  # 64 letters: 48
    del hexed, coded  # of a million pictures 80 MB
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
    return leader


def _root(leader: Places, place: int) -> int:
    while leader[place] != place:
        place = int(leader[place])
    return place


def matches(
    first: UInt64[np.ndarray, " n"], second: UInt64[np.ndarray, " m"], are_near: AreNear
) -> Iterator[tuple[Places, Places]]:
    """The places of hashes of the one list and the other that differ in few bits, where `are_near` agrees.

    Hashes so near share a key: of so many parts, all but MOST_BITS are equal (the pigeonhole principle). They come in
    pieces, those with several keys in common several times.
    """
    num_parts = MOST_BITS + (1 if len(second) <= FEW else 2)
    edges = [round(BITS * number / num_parts) for number in range(num_parts + 1)]
    parts = [(1 << high) - (1 << low) for low, high in itertools.pairwise(edges)]
    for equal in itertools.combinations(parts, num_parts - MOST_BITS):
        mask = np.uint64(sum(equal))
        pieces = _in_one(first & mask) if first is second else _in_both(first & mask, second & mask)
        for places, others in pieces:
            few = np.bitwise_count(first[places] ^ second[others]) <= MOST_BITS
            places, others = places[few], others[few]
            near = are_near(places, others)
            if near.any():
                yield places[near], others[near]


def _in_one(keys: UInt64[np.ndarray, " n"]) -> Iterator[tuple[Places, Places]]:
    """The places of equal keys, each pair once; of very many those whose places are nearest."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    begin, here = np.repeat(first, np.diff(first, append=len(keys))), np.arange(len(keys))
    return _pieces(order, order, np.maximum(begin, here - MOST_WITH_A_KEY), here)


def _in_both(mine: UInt64[np.ndarray, " n"], theirs: UInt64[np.ndarray, " m"]) -> Iterator[tuple[Places, Places]]:
    """The places of keys that are in both lists; of very many those whose places are nearest."""
    asking, order = (np.argsort(keys, kind="stable") for keys in (mine, theirs))
    mine, theirs = mine[asking], theirs[order]
    begin, end = (np.searchsorted(theirs, mine, side) for side in ("left", "right"))
    in_order = np.searchsorted(theirs, theirs) * len(theirs) + order  # by key, and then by place
    begin = np.maximum(begin, np.searchsorted(in_order, begin * len(theirs) + asking - MOST_WITH_A_KEY // 2))
    return _pieces(asking, order, begin, np.minimum(end, begin + MOST_WITH_A_KEY))


def _pieces(asking: Places, order: Places, begin: Places, end: Places) -> Iterator[tuple[Places, Places]]:
    """Each that asks with those from `begin` to before its `end`; a piece holds one of them for each that has more."""
    left = np.flatnonzero(begin < end)
    for offset in itertools.count():
        if not len(left):
            return
        yield asking[left], order[begin[left] + offset]
        left = left[begin[left] + offset + 1 < end[left]]
