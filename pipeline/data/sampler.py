"""Which examples an optimizer step sees: addressed by step, so that resuming at step N is starting at N."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Int64

from pipeline.data import orders
from pipeline.data.buckets import Bucket
from pipeline.data.orders import Order, Pass, order_of
from pipeline.geometry import Size


@dataclass(frozen=True)
class Position:
    """One place in the endless stream of examples."""

    index: int  # of the example in the manifest
    epoch: int  # how often the example was shown before
    size: Size  # at which it is shown
    place: int = 0  # within its optimizer step


@dataclass(frozen=True)
class StepSampler:
    """The stream of examples, cut into optimizer steps, each of one bucket.

    A bucket is gone through again and again, each time in an order of its own; a step that spans the border of two
    such passes takes from both. So no batch is ever ragged, and one image is enough. An epoch holds the steps that
    each bucket needs to show every example once more, in a random order: what its last step shows beyond that, the
    next epoch need not show again.
    """

    buckets: tuple[Bucket, ...]
    batch_size: int  # of one optimizer step, over all processes and micro-steps
    seed: int

    @cached_property
    def num_entries(self) -> int:
        """What an epoch shows."""
        return sum(self._lengths)

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        return tuple(len(bucket.entries) for bucket in self.buckets)

    @cached_property
    def _turns(self) -> int:
        return max(bucket.entries.num_turns for bucket in self.buckets)

    @cached_property
    def _order(self) -> Callable[[Pass], Order]:
        """In which order a bucket is gone through, after so many times; what is needed again soon is kept."""
        return lru_cache(maxsize=4 * len(self.buckets))(order_of)

    def step(self, step: int) -> list[Position]:
        """The `batch_size` positions of optimizer step `step`, counted from 0."""
        number, batch = self._batch(step)
        first = batch * self.batch_size
        return [self._position(number, first, offset) for offset in range(self.batch_size)]

    def shown_by(self, num_steps: int) -> tuple[Bucket, ...]:
        """The buckets with what so many steps show of them; all of it where an epoch's worth of places is shown."""
        if num_steps * self.batch_size >= self.num_entries:
            return self.buckets
        found = []
        for number, (bucket, batches) in enumerate(zip(self.buckets, self._first_batches(num_steps), strict=True)):
            if len(batches):
                numbers = (batches[:, None] * self.batch_size + np.arange(self.batch_size)).ravel()
                times, within = np.divmod(numbers, len(bucket.entries))
                places = [self._pass(number, int(time)).many(within[times == time]) for time in np.unique(times)]
                entries = bucket.entries.at(np.unique(np.concatenate(places)))
                found.append(dataclasses.replace(bucket, entries=entries))
        return tuple(found)

    def _first_batches(self, num_steps: int) -> list[Int64[np.ndarray, " n"]]:
        """Which batches of each bucket come in so many steps, which are less than an epoch's."""
        if len(self.buckets) == 1:
            return [np.arange(num_steps)]
        return _steps_of(self.seed, 0, self._lengths, self.batch_size).first_batches(num_steps)

    def num_steps(self, num_epochs: int) -> int:
        """The steps after which every example has been shown so often."""
        return sum(-(-num_epochs * length // self.batch_size) for length in self._lengths)

    def num_epochs(self, num_steps: int) -> int:
        """A number that no position of so many steps reaches with its epoch."""
        if len(self.buckets) == 1:
            batches = [num_steps]
        else:
            epochs = self._epoch_of(max(0, num_steps - 1)) + 1
            batches = [-(-epochs * length // self.batch_size) for length in self._lengths]
        passes = [-(-number * self.batch_size // length) for number, length in zip(batches, self._lengths, strict=True)]
        return max(passes) * self._turns

    def _batch(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and which of its batches."""
        if len(self.buckets) == 1:
            return 0, step
        epoch = self._epoch_of(step)
        return _steps_of(self.seed, epoch, self._lengths, self.batch_size).batch(step - self.num_steps(epoch))

    def _epoch_of(self, step: int) -> int:
        low, high = 0, step + 1  # every epoch has a step, or else so many have none that few steps are looked at
        while self.num_steps(high) <= step:
            high *= 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.num_steps(middle) <= step else (low, middle)
        return low

    def _pass(self, number: int, times: int) -> Order:
        """In which order a bucket is gone through, after so many times."""
        bucket = self.buckets[number]
        name = str(bucket.size) if len(self.buckets) > 1 else ""
        return self._order(Pass(self.seed, times, name, len(bucket.entries), self.batch_size))

    def _position(self, number: int, first: int, offset: int) -> Position:
        bucket = self.buckets[number]
        times, within = divmod(first + offset, len(bucket.entries))
        entry = bucket.entries[self._pass(number, times)(within)]
        return Position(entry.index, times * self._turns + entry.turn, bucket.size, offset)


@dataclass(frozen=True)
class MicroBatches:
    """A torch batch sampler: the micro-batches of one process, from `first_step` to `num_steps`.

    A step's positions are cut into micro-steps first and over processes second, so that two
    processes with one micro-step see what one process with two sees.
    """

    sampler: StepSampler
    first_step: int
    num_steps: int
    num_micro_steps: int
    rank: int = 0
    num_processes: int = 1

    def __iter__(self) -> Iterator[list[Position]]:
        size = self.sampler.batch_size // (self.num_micro_steps * self.num_processes)
        for step in range(self.first_step, self.num_steps):
            positions = self.sampler.step(step)
            for micro_step in range(self.num_micro_steps):
                first = (micro_step * self.num_processes + self.rank) * size
                yield positions[first : first + size]

    def __len__(self) -> int:
        return (self.num_steps - self.first_step) * self.num_micro_steps


@dataclass(frozen=True)
class _Steps:
    """The steps of an epoch: those of the first bucket, of the second and so on, in an order of their own."""

    first: Int64[np.ndarray, " n"]  # the first batch of each bucket, counted from the run's start
    ends: Int64[np.ndarray, " n"]  # steps of this bucket and those before it
    order: Order

    def batch(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and which of its batches."""
        place = self.order(step)
        number = int(np.searchsorted(self.ends, place, side="right"))
        before = int(self.ends[number - 1]) if number else 0
        return number, int(self.first[number]) + place - before

    def first_batches(self, num_steps: int) -> list[Int64[np.ndarray, " n"]]:
        """The batches of each bucket that come in the first steps, in no order."""
        places = np.sort(self.order.many(np.arange(num_steps)))
        edges = np.searchsorted(places, self.ends)
        begins = np.append(0, self.ends[:-1]) - self.first
        return [some - begin for some, begin in zip(np.split(places, edges[:-1]), begins, strict=True)]


@lru_cache(maxsize=4)
def _steps_of(seed: int, epoch: int, lengths: tuple[int, ...], batch_size: int) -> _Steps:
    first, after = (-(-epochs * np.array(lengths, dtype=np.int64) // batch_size) for epochs in (epoch, epoch + 1))
    ends = np.cumsum(after - first)
    lanes = orders.BLOCK  # neighbours are steps of one bucket, so of very many each comes from elsewhere
    return _Steps(first, ends, order_of(Pass(seed, epoch, "steps", int(ends[-1]), lanes)))
