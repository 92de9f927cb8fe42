"""Pictures that are alike: the same file, the same picture in other bytes, or mirrored."""

import collections
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, UInt8

from pipeline.audit.findings import Case, Cases
from pipeline.audit.survey import Look, Survey
from pipeline.data.manifest import Example, Manifest
from pipeline.data.near import MOST_APART, Places, matches


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


def between(subject: Survey, others: Survey) -> Cases:
    """Pictures of a class that are the subject's own, or nearly; each case names the class's first."""
    assert others.manifest is not None
    own = {e.image_id: e for e in (subject.manifest.distinct().examples if subject.manifest is not None else ())}
    theirs = {example.image_id: example for example in others.manifest.distinct().examples}
    same = [(example, own[image_id]) for image_id, example in theirs.items() if image_id in own]
    near = near_copies(list((theirs | own).values()), others.looks | subject.looks)[0]
    in_order = [pair if pair[0].image_id not in own else (pair[1], pair[0]) for pair in near]
    mixed = [pair for pair in in_order if pair[0].image_id not in own and pair[1].image_id in own]
    return {
        "class-own": sorted((_of_class(pair, "is") for pair in same), key=str),
        "class-near": sorted((_of_class(pair, "is nearly") for pair in mixed), key=str),
    }


def _of_class(pair: tuple[Example, Example], what: str) -> Case:
    theirs, own = pair
    return Case(f"{theirs.name} {what} {own.name} of the dataset", (theirs.name,))


def near_copies(
    examples: list[Example], looks: dict[str, Look]
) -> tuple[list[tuple[Example, Example]], list[tuple[Example, Example]]]:
    """Pairs of nearly the same pictures, and of mirrored ones: near in their hashes and in their sketches."""
    hashed = [example for example in examples if looks[example.image_id].hash is not None]
    if not hashed:
        return [], []
    seen = [looks[example.image_id] for example in hashed]
    plain, mirrored = (
        np.array(hashes, dtype=np.uint64)
        for hashes in ([look.hash for look in seen], [look.mirrored_hash for look in seen])
    )
    sketches = np.stack([look.sketch for look in seen])

    def are_near(first: Places, second: Places) -> Bool[np.ndarray, " n"]:
        return _are_near(sketches[first], sketches[second])

    def are_mirrored(first: Places, second: Places) -> Bool[np.ndarray, " n"]:
        near = _are_near(sketches[first], sketches[second][:, :, ::-1])
        near[first == second] = False
        return near

    near = _pairs(matches(plain, plain, are_near))
    flipped = _pairs(matches(plain, mirrored, are_mirrored)) - near
    return _examples(hashed, near), _examples(hashed, flipped)


def _are_near(first: UInt8[np.ndarray, "n 8 8 3"], second: UInt8[np.ndarray, "n 8 8 3"]) -> Bool[np.ndarray, " n"]:
    """Whether the sketches of two pictures are near, in the mean."""
    near: Bool[np.ndarray, " n"] = np.abs(first.astype(np.int16) - second).mean((1, 2, 3)) <= MOST_APART
    return near


def _pairs(found: Iterable[tuple[Places, Places]]) -> set[tuple[int, int]]:
    """Places that match, each pair once, the lower first."""
    every = ((one, other) for places in found for one, other in zip(*(part.tolist() for part in places), strict=True))
    return {(min(pair), max(pair)) for pair in every if pair[0] != pair[1]}


def _examples(examples: list[Example], pairs: set[tuple[int, int]]) -> list[tuple[Example, Example]]:
    return [(examples[one], examples[other]) for one, other in sorted(pairs)]


def _of_pair(pair: tuple[Example, Example]) -> Case:
    return _case(sorted(example.name for example in pair), " ~ ")


def _case(names: list[str], between: str) -> Case:
    return Case(between.join(names), tuple(names))
