"""In which order a pass goes through the places of a bucket, as a pure function of (seed, pass, part).

Up to WHOLE places it is one permutation. Of more, which would take gigabytes, it is one on two levels: blocks of
neighbours, and the places within a block. A batch has as many lanes as it has places; each lane goes through blocks of
its own, one after the other. So the examples of a step come from as many blocks, a block is read once and then done
with, and processes, which share every batch in the same way, read blocks of their own. Neighbours stay together for
BLOCK steps: they are a sample like any other, for a manifest is in the order of hashes. Only the copies of an example
are neighbours there, so they are shown near each other.
"""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int16, Int64

from pipeline import rng

WHOLE = 2**22  # places: 32 MB
BLOCK = 2**10


@dataclass(frozen=True)
class Pass:
    """One pass through a part of the dataset."""

    seed: int
    times: int  # how often the part was gone through before
    part: str  # its name; the whole has none
    length: int
    lanes: int  # places of a batch


class Order(ABC):
    """Which place is visited as number so and so of a pass."""

    @abstractmethod
    def __call__(self, number: int) -> int:
        """The place that is visited as this number."""

    def many(self, numbers: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The places that are visited as these."""
        return np.fromiter(map(self, numbers.tolist()), np.int64, len(numbers))


def order_of(one: Pass) -> Order:
    """In which order a pass goes through its part."""
    return _Whole(one) if one.length <= WHOLE else _Blocks(one)


class _Whole(Order):
    """One permutation."""

    def __init__(self, one: Pass) -> None:
        self._order = rng.order(one.seed, one.times, one.part, one.length)

    def __call__(self, number: int) -> int:
        return int(self._order[number])

    def many(self, numbers: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        found: Int64[np.ndarray, " n"] = self._order[numbers]
        return found


class _Blocks(Order):
    """The order on two levels, of which the order of the blocks and that within some of them are kept."""

    def __init__(self, one: Pass) -> None:
        self._pass, self._num_blocks = one, -(-one.length // BLOCK)
        self._order = rng.order(one.seed, one.times, f"{one.part} blocks", self._num_blocks)
        self._short = one.length - (self._num_blocks - 1) * BLOCK  # places of the last block
        self._short_rank = int(np.flatnonzero(self._order == self._num_blocks - 1)[0])
        self._within = functools.lru_cache(maxsize=2 * one.lanes)(self._order_within)

    def __call__(self, number: int) -> int:
        block, offset = self._block(self._in_lanes(number))
        return block * BLOCK + int(self._within(block)[offset])

    def _in_lanes(self, number: int) -> int:
        """Where a number comes when the numbers of each lane are laid end to end."""
        lanes, length = self._pass.lanes, self._pass.length
        shift = self._pass.times * length % lanes  # the pass before ended within a batch
        row, lane = divmod(number + shift, lanes)
        rows, rest = divmod(length + shift, lanes)
        begin = lane * rows + min(lane, rest) - min(lane, shift)
        return begin + row - (lane < shift)

    def _block(self, number: int) -> tuple[int, int]:
        """The block of this number when all blocks are laid end to end in their order, and the place within."""
        before = self._short_rank * BLOCK
        if before <= number < before + self._short:
            return self._num_blocks - 1, number - before
        is_after = number >= before
        rank, offset = divmod(number - self._short * is_after, BLOCK)
        return int(self._order[rank + is_after]), offset

    def _order_within(self, block: int) -> Int16[np.ndarray, " n"]:
        number = self._short if block == self._num_blocks - 1 else BLOCK
        return rng.order(self._pass.seed, self._pass.times, f"{self._pass.part} block {block}", number).astype(np.int16)
