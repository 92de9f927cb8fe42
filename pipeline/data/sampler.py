"""Which examples an optimizer step sees: addressed by step, so that resuming at step N is starting at N."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from pipeline import rng


@dataclass(frozen=True)
class Position:
    """One place in the endless stream of examples."""

    index: int  # of the example in the manifest
    epoch: int  # how often the stream has been through the dataset before


@dataclass(frozen=True)
class StepSampler:
    """The stream of examples, cut into optimizer steps.

    Every epoch visits every example once, in an order of its own; a step that spans the border
    of two epochs takes from both. So no batch is ever ragged, and one image is enough.
    """

    num_examples: int
    batch_size: int  # of one optimizer step, over all processes and micro-steps
    seed: int

    def step(self, step: int) -> list[Position]:
        """The `batch_size` positions of optimizer step `step`, counted from 0."""
        first = step * self.batch_size
        return [self._position(first + offset) for offset in range(self.batch_size)]

    def _position(self, place: int) -> Position:
        epoch, within = divmod(place, self.num_examples)
        return Position(_order(self.seed, epoch, self.num_examples)[within], epoch)


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


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, num_examples: int) -> list[int]:
    return rng.order(seed, epoch, num_examples)
