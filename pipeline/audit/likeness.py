"""Pictures that are alike: the same file, the same picture in other bytes, or mirrored."""

import collections

import numpy as np

from pipeline.audit.findings import Case, Cases
from pipeline.audit.survey import Look, Survey
from pipeline.data.manifest import Example, Manifest
from pipeline.data.near import candidates

MOST_APART = 6.0  # of 255, in the mean over the sketches of one picture


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
    for first, second in candidates(plain, plain):
        if first < second and _differ(looks, hashed[first], hashed[second]) <= MOST_APART:
            near.append((hashed[first], hashed[second]))
    found = set(near)
    for first, second in candidates(plain, mirrored):
        pair = (hashed[min(first, second)], hashed[max(first, second)])
        if first == second or pair in found:
            continue
        if _differ(looks, *pair, mirror=True) <= MOST_APART:
            found.add(pair)
            flipped.append(pair)
    return near, flipped


def _differ(looks: dict[str, Look], first: Example, second: Example, *, mirror: bool = False) -> float:
    """How far the sketches of two pictures are apart, in the mean, of 255."""
    one, other = (looks[example.image_id].sketch.astype(np.int16) for example in (first, second))
    return float(np.abs(one - (other[:, ::-1] if mirror else other)).mean())


def _of_pair(pair: tuple[Example, Example]) -> Case:
    return _case(sorted(example.name for example in pair), " ~ ")


def _case(names: list[str], between: str) -> Case:
    return Case(between.join(names), tuple(names))
