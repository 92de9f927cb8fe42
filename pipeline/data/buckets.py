"""Aspect-ratio buckets: pictures keep their shape, and those of one size are trained on together. Imports no torch."""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from pipeline.data.entries import Entries, each_once
from pipeline.data.manifest import Example, at, column
from pipeline.data.options import DataOptions
from pipeline.geometry import Size

STEPS_PER_SIDE = 16  # of the square, where --bucket_step is not given
SMALLEST_SHARE = 4  # no side is shorter than this part of the square's: what is smaller is enlarged
LITTLE, MUCH = 0.01, 0.05  # of a picture's area, cut off: what is worth a word, and a note for each
MAX_LOSS = 0.5  # of what a picture shows: a bucket in which one would lose more keeps to itself


@dataclass(frozen=True)
class Bucket:
    """What is shown at one size."""

    size: Size
    entries: Entries
    joined: tuple[Size, ...] = ()  # sizes with too few pictures for a step, which are shown at this one


def together(num_examples: int, size: Size) -> tuple[Bucket, ...]:
    """All examples in one bucket."""
    return (Bucket(size, Entries.of(np.arange(num_examples))),)


def default_step(side: int, multiple: int) -> int:
    """A sixteenth of the square's side, in steps that the model can take."""
    return max(multiple, side // STEPS_PER_SIDE // multiple * multiple)


@dataclass(frozen=True)
class Shapes:
    """The sizes that pictures may get: about as many pixels as a square, and none more."""

    side: int  # of the square, in pixels
    step: int  # sides are multiples of it
    max_aspect: float  # of the longer side to the shorter; 1: the square alone
    enlarges: bool  # whether small pictures are scaled up to these sizes, instead of having smaller ones

    @functools.cached_property
    def ladder(self) -> tuple[Size, ...]:
        """The sizes of large pictures: for each side the longest other one, either way up, and the square."""
        found = {Size.square(self.side)}
        if self.max_aspect == 1:
            return tuple(found)
        for width in range(self.step, self.side * self.side // self.step + 1, self.step):
            height = self.side * self.side // width // self.step * self.step
            if height and max(width, height) <= self.max_aspect * min(width, height):
                found |= {Size(width, height), Size(height, width)}
        return tuple(sorted(found))

    def holds(self, original: Size) -> bool:
        """Whether a picture has the pixels for one of these sizes."""
        return any(_covers(original, size) for size in self.ladder)

    def size_for(self, original: Size) -> Size:
        """The size a picture is shown at: of the nearest shape, and one of its own where it is too small for these."""
        fitting = [size for size in self.ladder if self.enlarges or _covers(original, size)]
        if not fitting:
            return self._own(original)
        return min(fitting, key=lambda size: (_distance(original, size), -size.area, size))

    def _own(self, original: Size) -> Size:
        """What a small picture is cut to, so that nothing of it is scaled up."""
        least = min(self.side, math.ceil(self.side / SMALLEST_SHARE / self.step) * self.step)
        short, long = sorted(max(least, side // self.step * self.step) for side in (original.width, original.height))
        long = min(long, max(short, int(short * self.max_aspect) // self.step * self.step))
        return Size(short, long) if original.width <= original.height else Size(long, short)


@dataclass(frozen=True)
class Offered:
    """The shapes for each resolution that a source of the data asks for, the smallest first."""

    by_sides: Mapping[tuple[int, ...], tuple[Shapes, ...]]  # by what --resolution says

    def of(self, example: Example) -> tuple[Shapes, ...]:
        """What its source asks for."""
        return self.by_sides[example.options.sides]

    def measured(self, example: Example) -> Size:
        """The size at which an example is measured: of the largest resolution."""
        return self.of(example)[-1].size_for(example.size)

    @property
    def every(self) -> tuple[Shapes, ...]:
        """All of them, the smallest first."""
        return tuple(sorted({*itertools.chain(*self.by_sides.values())}, key=lambda shapes: shapes.side))

    @property
    def square(self) -> Size:
        """The square of the largest resolution."""
        return Size.square(self.every[-1].side)

    def pictures(self, examples: Sequence[Example]) -> list[tuple[Size, tuple[Shapes, ...]]]:
        """Each example's size, and what its source asks for."""
        sizes, options = column(examples, "size"), column(examples, "options")
        sources = {id(one): one for one in options}
        possible = {key: self.by_sides[one.sides] for key, one in sources.items()}
        return [(size, possible[id(one)]) for size, one in zip(sizes, options, strict=True)]


def offered(options: DataOptions, native_side: int, multiple: int) -> Offered:
    """The shapes of every source, for a model of this own side whose sides have a multiple."""

    def of(sides: tuple[int, ...]) -> tuple[Shapes, ...]:
        return tuple(
            Shapes(
                side,
                options.bucket_step or default_step(side, multiple),
                options.max_aspect if options.buckets else 1.0,
                enlarges=options.upscale or not options.buckets,
            )
            for side in sides or (native_side,)
        )

    with_class = (options.of_class,) if options.has_class else ()
    return Offered({source.sides: of(source.sides) for source in (*options.sources, *with_class)})


def make_buckets(pictures: Sequence[tuple[Size, Sequence[Shapes]]], batch_size: int) -> tuple[Bucket, ...]:
    """Every picture, by its size in pixels, in a bucket for each of its possible resolutions it has the pixels for.

    `batch_size` is that of an optimizer step over all processes and micro-steps: a bucket with fewer pictures joins
    the one where these lose least.
    """

    @functools.cache
    def sizes_for(original: Size, possible: tuple[Shapes, ...]) -> tuple[Size, ...]:
        by_side = sorted(possible, key=lambda shapes: shapes.side)
        fitting = [shapes for shapes in by_side if shapes.enlarges or shapes.holds(original)] or by_side[:1]
        return tuple(dict.fromkeys(shapes.size_for(original) for shapes in fitting))

    kinds: dict[tuple[Size, tuple[Shapes, ...]], int] = {}
    of_pictures = [kinds.setdefault((original, tuple(possible)), len(kinds)) for original, possible in pictures]
    places = _places_by_kind(of_pictures, len(kinds))
    found: dict[Size, list[Entries]] = {}
    for (original, possible), indices in zip(kinds, places, strict=True):
        for turn, size in enumerate(sizes_for(original, possible)):
            found.setdefault(size, []).append(Entries.of(indices, turn))
    enlarges = any(shapes.enlarges for _, possible in kinds for shapes in possible)
    own = {size: each_once(parts) for size, parts in found.items()}
    merging = _Merging(own, [original for original, _ in pictures], batch_size, enlarges=enlarges)
    merging.run()
    return tuple(
        Bucket(size, each_once([own[part] for part in parts]), tuple(sorted(merging.joined[size])))
        for size, parts in sorted(merging.parts.items())
    )


def _places_by_kind(kinds: Sequence[int], number: int) -> list[Int64[np.ndarray, " _"]]:
    """For each kind the places where it is."""
    of_places = np.array(kinds, dtype=np.int64)
    order = np.argsort(of_places, kind="stable")
    return np.split(order, np.cumsum(np.bincount(of_places, minlength=number))[:-1])


def shown(examples: Sequence[Example], buckets: Sequence[Bucket]) -> Iterator[tuple[Example, Size]]:
    """Every example with each size that it is shown at."""
    for bucket in buckets:
        for example in at(examples, bucket.entries.places):
            yield example, bucket.size


def only_shown(examples: Sequence[Example], buckets: Sequence[Bucket]) -> Sequence[Example]:
    """The examples that are in some bucket, each once and in their order."""
    places = np.unique(np.concatenate([bucket.entries.places for bucket in buckets]))
    return examples if len(places) == len(examples) else at(examples, places)


def fields_shown(examples: Sequence[Example], buckets: Sequence[Bucket], *names: str) -> Iterator[tuple[Any, ...]]:
    """Some fields of every example, and a size that it is shown at, in the same order."""
    columns = [column(examples, name) for name in names]
    for bucket in buckets:
        for place in bucket.entries.places.tolist():
            yield (*(values[place] for values in columns), bucket.size)


def lost_by_cutting(original: Size, size: Size) -> float:
    """The share of a picture's area that is cut off where it is scaled to cover a size."""
    scale = max(size.width / original.width, size.height / original.height)
    return 1 - size.area / (original.area * scale**2)


def share_cropped(cases: Mapping[tuple[Size, Size], int]) -> float:
    """The share of the pixels of all pictures that is cut off; so many have a size and one they are shown at."""
    lost = sum(number * one.area * lost_by_cutting(one, size) for (one, size), number in cases.items())
    return lost / sum(number * one.area for (one, _), number in cases.items())


def is_enlarged(original: Size, size: Size) -> bool:
    """Whether a picture is scaled up to cover a size."""
    return not _covers(original, size)


class _Merging:
    """Buckets of which each with less than a batch joins another, the smallest first, if that does not cost too much.

    A neighbour takes pictures at its own size if none has to be scaled up for it. Two small ones may meet at the
    sides that both have.
    """

    def __init__(
        self, found: Mapping[Size, Entries], originals: Sequence[Size], batch_size: int, *, enlarges: bool
    ) -> None:
        self.parts, self.joined = {size: [size] for size in found}, {size: set[Size]() for size in found}
        self._found, self._lengths = found, {size: len(entries) for size, entries in found.items()}
        self._originals, self._batch_size, self._enlarges = originals, batch_size, enlarges

    def run(self) -> None:
        """Join what should be joined."""
        alone: set[Size] = set()
        while small := [size for size in self.parts if self._is_small(size) and size not in alone]:
            size = min(small, key=lambda size: (self._length(size), size))
            choices = [choice for other in sorted(self.parts) if (choice := self._choice(size, other))]
            if not choices:
                alone.add(size)
                continue
            _, both, other = min(choices)
            parts = self.parts.pop(size) + self.parts.pop(other)
            sizes = self.joined.pop(size) | self.joined.pop(other) | {size, other}
            self.parts[both] = self.parts.get(both, []) + parts
            self.joined[both] = (self.joined.get(both, set()) | sizes) - {both}

    def _length(self, size: Size) -> int:
        return sum(self._lengths[part] for part in self.parts[size])

    def _is_small(self, size: Size) -> bool:
        return self._length(size) < self._batch_size

    def _pictures(self, size: Size) -> list[tuple[Size, Size]]:
        """The sizes of its pictures, and those they would be shown at."""
        return [(self._originals[entry.index], part) for part in self.parts[size] for entry in self._found[part]]

    def _choice(self, size: Size, other: Size) -> tuple[float, Size, Size] | None:
        """What each picture would lose in the mean, the size of both together, and the other; None for no choice."""
        if other == size:
            return None
        moved, both = self._pictures(size), other
        if not (self._enlarges or all(_covers(original, other) for original, _ in moved)):
            if not self._is_small(other):
                return None
            both = Size(min(size.width, other.width), min(size.height, other.height))
            moved = moved + self._pictures(other)
        losses = [_loss(original, own, both) for original, own in moved]
        return None if max(losses) > MAX_LOSS else (sum(losses) / len(losses), both, other)


def _loss(original: Size, own: Size, size: Size) -> float:
    """The share of what a picture shows at its own size that it no longer shows, or shows at another resolution."""
    kept = (1 - lost_by_cutting(original, size)) / (1 - lost_by_cutting(original, own))
    return 1 - kept * min(size.area / own.area, own.area / size.area)


def _covers(original: Size, size: Size) -> bool:
    return size.width <= original.width and size.height <= original.height


def _distance(original: Size, size: Size) -> float:
    """How far two shapes are apart: the logarithm of how much longer one is."""
    return abs(math.log(original.width * size.height / (original.height * size.width)))
