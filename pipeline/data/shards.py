"""Many small entries in few files: shards of named tensors, each written whole, found by what their headers name.

A shard is named after the entries in it. Two processes that keep the same ones write the same file, or two files of
which either serves; a kill leaves shards that are whole, and loses what was not yet in one.
"""

import contextlib
import gc
import json
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from pipeline import atomic
from pipeline.errors import DataError
from pipeline.hashing import digest

MAX_ENTRIES, MAX_BYTES = 512, 2**28  # of a shard
MAX_SECONDS = 120.0  # that what was computed waits for its shard to fill
MAX_OPEN = 128  # shards that a process reads from at once
PATTERN = "*.safetensors"
TYPES = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
Kind = tuple[str, str, tuple[int, ...]]  # of a tensor: its name, a key of TYPES, its shape


class Place(NamedTuple):
    """Where an entry lies: no header is read again for it, for it would take longer than the entry itself."""

    shard: str
    kinds: tuple[Kind, ...]
    starts: tuple[int, ...]  # of each, in bytes of the file


class Shards:
    """The entries of a folder by their keys, which hold no slash. Copies for other processes know only the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, Place] = {}
        self._kinds: dict[tuple[Kind, ...], tuple[Kind, ...]] = {}  # each once
        self._read: set[str] = set()  # shards whose headers are in `_places`
        self._open: dict[str, BinaryIO] = {}
        weakref.finalize(self, _close_all, self._open)
        self._waiting: dict[str, dict[str, Tensor]] = {}
        self._waiting_bytes, self._waiting_since = 0, 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        assert not self._waiting, "entries would be lost"
        return Shards, (self.folder,)

    def __contains__(self, key: str) -> bool:
        """Whether there is such an entry, as far as is known; `look` finds what others wrote."""
        return key in self._waiting or key in self._places

    def look(self) -> None:
        """Learn of the shards that were written since the last look. Raises DataError with all that are damaged."""
        damaged: list[str] = []
        with _uncollected():
            for path in sorted(self.folder.glob(PATTERN)):
                if path.name not in self._read:
                    try:
                        self._note(path)
                    except FileNotFoundError:  # removed since it was listed
                        pass
                    except DataError as error:
                        damaged.append(str(error))
        if damaged:
            raise DataError("\n".join(damaged))

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Keep an entry, with others as soon as they fill a shard; `flush` writes the rest."""
        self._waiting_since = self._waiting_since if self._waiting else time.monotonic()
        self._waiting[key] = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        self._waiting_bytes += sum(tensor.nbytes for tensor in tensors.values())
        is_old = time.monotonic() - self._waiting_since > MAX_SECONDS
        if len(self._waiting) >= MAX_ENTRIES or self._waiting_bytes >= MAX_BYTES or is_old:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        path = self.folder / f"{digest(''.join(sorted(self._waiting)).encode())}.safetensors"
        tensors = {f"{key}/{part}": tensor for key, entry in self._waiting.items() for part, tensor in entry.items()}
        atomic.write_tensors(path, tensors)
        self._note(path)
        self._waiting, self._waiting_bytes = {}, 0

    def load(self, key: str) -> dict[str, Tensor]:
        """An entry. Raises KeyError for one that nobody wrote."""
        if key in self._waiting:
            return dict(self._waiting[key])
        if key not in self._places:
            self.look()
        shard, kinds, starts = self._places[key]
        file = self._opened(shard)
        return {kind[0]: _read(file, kind, start) for kind, start in zip(kinds, starts, strict=True)}

    def _opened(self, shard: str) -> BinaryIO:
        if shard not in self._open:
            if len(self._open) >= MAX_OPEN:
                self._open.pop(next(iter(self._open))).close()
            self._open[shard] = (self.folder / shard).open("rb", buffering=0)
        return self._open[shard]

    def _note(self, path: Path) -> None:
        start, header = _header_of(path)
        found: dict[str, list[tuple[Kind, int]]] = {}
        for name, facts in header.items():
            key, _, part = name.partition("/")
            kind = part, facts["dtype"], tuple(facts["shape"])
            found.setdefault(key, []).append((kind, start + facts["data_offsets"][0]))
        for key, parts in found.items():
            parts.sort()
            kinds = tuple([kind for kind, _ in parts])
            starts = tuple([place for _, place in parts])
            self._places[key] = Place(path.name, self._kinds.setdefault(kinds, kinds), starts)
        self._read.add(path.name)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector: it would go through all that is alive, again and again, for what stays anyway."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _header_of(path: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Where the tensors begin, and what the header says of each. Raises DataError for a damaged file."""
    with path.open("rb") as file:  # eight bytes say how long the header is, which is JSON
        length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
        try:
            header = json.loads(file.read(min(length, size)))
            header.pop("__metadata__", None)
            end = max(facts["data_offsets"][1] for facts in header.values())
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise _damaged(path) from error
    if 8 + length + end != size:
        raise _damaged(path)
    return 8 + length, header


def _read(file: BinaryIO, kind: Kind, start: int) -> Tensor:
    """A tensor of a shard. Raises DataError where the file has become shorter."""
    _, type_, shape = kind
    tensor = torch.empty(shape, dtype=TYPES[type_])
    if os.preadv(file.fileno(), [tensor.reshape(-1).view(torch.uint8).numpy().data], start) != tensor.nbytes:
        raise _damaged(Path(file.name))
    return tensor


def _close_all(files: dict[str, BinaryIO]) -> None:
    for file in files.values():
        file.close()


def _damaged(path: Path) -> DataError:
    return DataError(f"{path} is damaged: remove it, and what it held is encoded again.")
