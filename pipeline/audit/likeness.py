"""Pictures that are alike: the same file, the same picture in other bytes, or mirrored."""

import bisect
import collections
import itertools
from collections.abc import Iterable

import numpy as np

from pipeline.audit.findings import Case, Cases
from pipeline.audit.survey import Look, Survey
from pipeline.data.manifest import Example, Manifest

BITS = 64  # of a perceptual hash (ImageHash's phash: signs of the lowest frequencies of a cosine transform)
MOST_BITS = 4  # in which the hashes of one picture may differ after it was scaled or compressed again
BANDS = MOST_BITS + 1  # of a hash: of two so near, at least one is equal (the pigeonhole principle)
MOST_APART = 6.0  # of 255, in the mean over the sketches of one picture
MOST_IN_A_BAND = 2000  # pictures with a band in common that one is compared with: more are alike by chance


def of_likeness(found: Survey, held_out: Manifest | None) -> Cases:
    """Copies, near copies and mirrored ones; those between what is trained on and held out stand out."""
    assert found.manifest is not None
    examples = list(found.manifest.distinct().examples)
    groups: dict[str, list[Example]] = collections.defaultdict(list)
    for example in examples:
        groups[example.image_id].append(example)
    equal: dict[str, set[str]] = collections.defaultdict(set)
    for example in found.manifest.examples:
        equal[example.views_id].add(example.name)
    same = [_case(sorted(names), " = ") for names in equal.values() if len(names) > 1]
    twice = [group for group in groups.values() if len(group) > 1]
    near, mirrored = near_copies([group[0] for group in groups.values()], found.looks)
    apart = {example.image_id for example in held_out.examples} if held_out is not None else set()
    leaks = [pair for pair in near + mirrored if len({example.image_id in apart for example in pair}) == 2]
    return {
        "same": same,
        "same-picture": [_case([example.name for example in group], " = ") for group in twice],
        "near": [_of_pair(pair) for pair in near],
        "mirrored": [_of_pair(pair) for pair in mirrored],
        "leak": [_of_pair(pair) for pair in leaks],
    }


def near_copies(
    examples: list[Example], looks: dict[str, Look]
) -> tuple[list[tuple[Example, Example]], list[tuple[Example, Example]]]:
    """Pairs of nearly the same pictures, and of mirrored ones: near in their hashes and in their sketches."""
    hashed = [example for example in examples if looks[example.image_id].hash is not None]
    plain = [looks[example.image_id].hash or 0 for example in hashed]
    mirrored = [looks[example.image_id].mirrored_hash or 0 for example in hashed]
    near, flipped = [], []
    for first, second in _candidates(plain, plain):
        if first < second and _differ(looks, hashed[first], hashed[second]) <= MOST_APART:
            near.append((hashed[first], hashed[second]))
    found = set(near)
    for first, second in _candidates(plain, mirrored):
        pair = (hashed[min(first, second)], hashed[max(first, second)])
        if first == second or pair in found:
            continue
        if _differ(looks, *pair, mirror=True) <= MOST_APART:
            found.add(pair)
            flipped.append(pair)
    return near, flipped


def _candidates(first: list[int], second: list[int]) -> Iterable[tuple[int, int]]:
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


def _differ(looks: dict[str, Look], first: Example, second: Example, *, mirror: bool = False) -> float:
    """How far the sketches of two pictures are apart, in the mean, of 255."""
    one, other = (looks[example.image_id].sketch.astype(np.int16) for example in (first, second))
    return float(np.abs(one - (other[:, ::-1] if mirror else other)).mean())


def _of_pair(pair: tuple[Example, Example]) -> Case:
    return _case(sorted(example.name for example in pair), " ~ ")


def _case(names: list[str], between: str) -> Case:
    return Case(between.join(names), tuple(names))
