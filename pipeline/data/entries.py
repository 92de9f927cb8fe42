"""What a bucket shows: examples by their place in the manifest, each at one of its sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from jaxtyping import Int64, UInt8, UInt32


@dataclass(frozen=True, order=True)
class Entry:
    """One showing of an example: an epoch shows it once at each size."""

    index: int  # of the example in the manifest
    turn: int = 0  # of its sizes


@dataclass(frozen=True, eq=False)
class Entries(Sequence[Entry]):
    """The entries of a bucket in two arrays, as there may be very many."""

    indices: UInt32[np.ndarray, " n"]
    turns: UInt8[np.ndarray, " n"]

    @classmethod
    def of(cls, indices: Int64[np.ndarray, " n"], turn: int = 0) -> "Entries":
        """Examples, each with the same of its sizes."""
        return cls(indices.astype(np.uint32), np.full(len(indices), turn, dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> "Entries": ...
    def __getitem__(self, place: int | slice) -> "Entry | Entries":
        if isinstance(place, slice):
            return self.at(np.arange(len(self))[place])
        return Entry(int(self.indices[place]), int(self.turns[place]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entries):
            return NotImplemented
        return np.array_equal(self.indices, other.indices) and np.array_equal(self.turns, other.turns)

    @property
    def places(self) -> Int64[np.ndarray, " n"]:
        """Of the examples."""
        return self.indices.astype(np.int64)

    def at(self, places: Int64[np.ndarray, " m"]) -> "Entries":
        """Those at some places of the bucket."""
        return Entries(self.indices[places], self.turns[places])

    @property
    def num_turns(self) -> int:
        """How often an epoch may show an example."""
        return 1 + int(self.turns.max(initial=0))


def each_once(parts: Sequence[Entries]) -> Entries:
    """The entries in order; of a picture that came to one size from two, the first."""
    indices = np.concatenate([part.indices for part in parts])
    turns = np.concatenate([part.turns for part in parts])
    order = np.lexsort((turns, indices))
    _, first = np.unique(indices[order], return_index=True)
    return Entries(indices[order[first]], turns[order[first]])
