"""Many small entries in few files: shards of named tensors, each written whole, found by what their headers name.

A shard is named after the entries in it. Two processes that keep the same ones write the same file, or two files of
which either serves; a kill leaves shards that are whole, and loses what was not yet in one.
"""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from pipeline import atomic
from pipeline.errors import DataError
from pipeline.hashing import digest

MAX_ENTRIES, MAX_BYTES = 512, 2**28  # of a shard
MAX_SECONDS = 120.0  # that what was computed waits for its shard to fill
MAX_OPEN = 128  # shards that a process reads from at once
PATTERN = "*.safetensors"


class Shards:
    """The entries of a folder by their keys, which hold no slash. Copies for other processes know only the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, tuple[str, tuple[str, ...]]] = {}  # key -> shard, names of its tensors
        self._read: set[str] = set()  # shards whose headers are in `_places`
        self._open: dict[str, Any] = {}
        self._waiting: dict[str, dict[str, Tensor]] = {}
        self._waiting_bytes, self._waiting_since = 0, 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        assert not self._waiting, "entries would be lost"
        return Shards, (self.folder,)

    def __contains__(self, key: str) -> bool:
        """Whether there is such an entry, as far as is known; `look` finds what others wrote."""
        return key in self._waiting or key in self._places

    def look(self) -> None:
        """Learn of the shards that were written since the last look. Raises DataError for a damaged one."""
        for path in sorted(self.folder.glob(PATTERN)):
            if path.name not in self._read:
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    self._note(path.name, _names_in(path))

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
        name = f"{digest(''.join(sorted(self._waiting)).encode())}.safetensors"
        tensors = {f"{key}/{part}": tensor for key, entry in self._waiting.items() for part, tensor in entry.items()}
        atomic.write_tensors(self.folder / name, tensors)
        self._note(name, list(tensors))
        self._waiting, self._waiting_bytes = {}, 0

    def load(self, key: str) -> dict[str, Tensor]:
        """An entry. Raises KeyError for one that nobody wrote."""
        if key in self._waiting:
            return dict(self._waiting[key])
        if key not in self._places:
            self.look()
        shard, names = self._places[key]
        file = self._opened(shard)
        return {name: file.get_tensor(f"{key}/{name}") for name in names}

    def _opened(self, shard: str) -> Any:
        if shard not in self._open:
            if len(self._open) >= MAX_OPEN:
                self._open.pop(next(iter(self._open)))
            self._open[shard] = safe_open(self.folder / shard, framework="pt")
        return self._open[shard]

    def _note(self, shard: str, names: list[str]) -> None:
        self._read.add(shard)
        parts: dict[str, list[str]] = {}
        for name in names:
            key, _, part = name.partition("/")
            parts.setdefault(key, []).append(part)
        self._places |= {key: (shard, tuple(sorted(found))) for key, found in parts.items()}


def _names_in(path: Path) -> list[str]:
    """The names of a file's tensors, from its header alone. Raises DataError for a damaged one."""
    damaged = f"{path} is damaged: remove it, and what it held is encoded again."
    with path.open("rb") as file:  # eight bytes say how long the header is, which is JSON
        length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
        try:
            header = json.loads(file.read(min(length, size)))
            names = [name for name in header if name != "__metadata__"]
            end = max(header[name]["data_offsets"][1] for name in names)
        except (ValueError, TypeError, LookupError) as error:
            raise DataError(damaged) from error
    if 8 + length + end != size:
        raise DataError(damaged)
    return names
