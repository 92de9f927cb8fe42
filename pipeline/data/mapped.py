"""Examples in a file of Arrow record batches that is mapped into memory: what is not looked at costs nothing.

All processes of a machine share its pages, and one that is given such examples opens the file itself. Behind the
batches lies a hash of them, for Arrow trusts what it maps: a damaged file would be other captions, or a crash.
"""

import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import xxhash

from pipeline import atomic
from pipeline.data.manifest import Columns, Example, Letters, Places
from pipeline.data.options import DataOptions
from pipeline.data.rows import FileSource, Source
from pipeline.errors import DataError
from pipeline.geometry import Size

ROWS = 2**16  # of a record batch
TEXTS = ("id", "image_id", "name", "mask_id", "sketch", "group", "weighed_as")
PATHS = ("path", "mask")  # as bytes, for not every name of a file is text
NUMBERS = ("copy", "width", "height")
LISTS = ("captions", "weights")
REALS = ("loss_weight",)
FIELDS = (
    "id", "image_id", "name", "source", "captions", "size", "options", "copy", "sketch", "mask", "weights", "mask_id",
    "group", "loss_weight", "weighed_as",
)  # fmt: skip
HEADER = b"t2i-lora"  # the key of what is no row
PIECE = 2**20  # bytes read at once
HASH_BYTES = xxhash.xxh3_128().digest_size  # at the end of the file


class MappedTable:
    """A file's rows, and what its header says."""

    def __init__(self, path: Path, identity: tuple[int, ...], table: Any) -> None:
        self.path, self.identity, self.table = path, identity, table
        self.header: dict[str, Any] = json.loads(table.schema.metadata[HEADER])

    @classmethod
    def opened(cls, path: Path) -> "MappedTable":
        """Raises ValueError for a file that is not as it was written, OSError for none."""
        identity = _identity(path)
        _require_whole(path)
        return cls._mapped(path, identity)

    @classmethod
    def _mapped(cls, path: Path, identity: tuple[int, ...]) -> "MappedTable":
        """The table of a file that is known to be whole. Raises ValueError where another has taken its place."""
        import pyarrow

        content = pyarrow.memory_map(str(path)).read_buffer()
        if _identity(path) != identity:
            raise ValueError(f"{path} is another file")
        return cls(path, identity, pyarrow.ipc.open_file(content.slice(0, content.size - HASH_BYTES)).read_all())

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, the place of the file: all that is in it, where another has taken its place."""
        if self.path.is_file() and _identity(self.path) == self.identity:
            return _opened_again, (self.path, self.identity)
        return MappedTable, (self.path, self.identity, self.table)


def _identity(path: Path) -> tuple[int, ...]:
    """What is another of a file that takes the place of this one."""
    facts = os.stat(path)
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns


def _require_whole(path: Path) -> None:
    """Raise ValueError for a file whose hash is another; OSError for none."""
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END) - HASH_BYTES
        if length < 0:
            raise ValueError(f"{path} is cut short")
        file.seek(length)
        wanted, found, rest = file.read(), xxhash.xxh3_128(), length
        file.seek(0)
        while piece := file.read(min(PIECE, rest)):  # read, not mapped: what is mapped counts as this process's memory
            found.update(piece)
            rest -= len(piece)
    if found.digest() != wanted:
        raise ValueError(f"{path} is not as it was written")


def _opened_again(path: Path, identity: tuple[int, ...]) -> MappedTable:
    """The table of a file that another process opened. Raises DataError where the file is another now."""
    try:
        return MappedTable._mapped(path, identity)
    except (OSError, ValueError) as error:
        message = f"The dataset changed while a run with it began ({path} is another); start again."
        raise DataError(message) from error


@dataclass(frozen=True, eq=False)
class Mapped(Columns):
    """The rows of a file as examples, all of them or those at some places; their options are given, not kept."""

    file: MappedTable
    options: DataOptions
    places: Places | None = None

    def __len__(self) -> int:
        return self.file.table.num_rows if self.places is None else len(self.places)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> "Mapped": ...
    def __getitem__(self, place: int | slice) -> "Example | Mapped":
        if isinstance(place, slice):
            return self.at(np.arange(len(self))[place])
        row = range(len(self))[place]
        row = row if self.places is None else int(self.places[row])
        cells = {column: self.file.table[column][row].as_py() for column in (*TEXTS, *PATHS, *NUMBERS, *REALS, *LISTS)}
        size = Size(cells.pop("width"), cells.pop("height"))
        source, mask = _source(cells.pop("path")), _source(cells.pop("mask"))
        captions, weights = tuple(cells.pop("captions")), tuple(cells.pop("weights"))
        return Example(
            **cells, source=source, captions=captions, size=size, options=self.options, mask=mask, weights=weights
        )

    def __iter__(self) -> Iterator[Example]:
        for first in range(0, len(self), ROWS):
            some = self[first : first + ROWS]
            for values in zip(*(some.column(field) for field in FIELDS), strict=True):
                yield Example(**dict(zip(FIELDS, values, strict=True)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    def at(self, places: Places) -> "Mapped":
        """Those at some places, in this order."""
        return Mapped(self.file, self.options, places if self.places is None else self.places[places])

    def column(self, name: str) -> list[Any]:
        """One field of every example."""
        if name == "options":
            return [self.options] * len(self)
        if name == "is_class":
            return [False] * len(self)
        if name == "size":
            known: dict[tuple[int, int], Size] = {}
            sides = zip(self._cells("width"), self._cells("height"), strict=True)
            return [known.get(side) or known.setdefault(side, Size(*side)) for side in sides]
        if name in ("source", "mask"):
            return [_source(path) for path in self._cells("path" if name == "source" else "mask")]
        return self._cells(name)

    def letters(self, name: str) -> Letters | None:
        """A field whose texts are all of one length, as bytes; None where they are not."""
        pieces = []
        for chunk in filter(len, self._taken(name).chunks):
            _, places, text = chunk.buffers()
            edges = np.frombuffer(places, dtype=np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
            lengths = np.diff(edges)
            if len({*lengths.tolist()}) > 1:
                return None
            pieces.append(np.frombuffer(text, dtype=np.uint8)[edges[0] : edges[-1]].reshape(len(chunk), -1))
        return np.concatenate(pieces) if len({piece.shape[1] for piece in pieces}) == 1 else None

    def _taken(self, name: str) -> Any:
        """A column of the file, at these places."""
        found = self.file.table[name]
        return found if self.places is None else found.take(self.places)

    def _cells(self, name: str) -> list[Any]:
        """A column of the file as it is kept."""
        found = self._taken(name)
        if name in LISTS:
            return list(itertools.chain.from_iterable(map(_tuples, found.chunks)))
        cells: list[Any] = found.to_numpy().tolist()
        return cells


def _source(path: bytes | None) -> Any:
    """What lies at a path; None without one."""
    return None if path is None else FileSource(os.fsdecode(path))


def _tuples(lists: Any) -> Iterator[tuple[Any, ...]]:
    """The lists of a column, taken apart all at once."""
    values = iter(lists.flatten().to_numpy(zero_copy_only=False).tolist())
    return (tuple(itertools.islice(values, length)) for length in lists.value_lengths().to_numpy())


def is_kept(examples: Sequence[Example]) -> bool:
    """Whether such a file can hold them: those whose pictures and masks are files."""
    sources = (source for e in examples for source in (e.source, e.mask) if source is not None)
    return all(isinstance(source, FileSource) for source in sources)


def write(path: Path, examples: Iterable[Example], header: dict[str, Any]) -> None:
    """Write the file whole or not at all.

    Raises OSError, or pyarrow.ArrowException or ValueError for what Arrow does not hold, half a character, say.
    """
    import pyarrow

    text = pyarrow.large_string()  # not string: what is taken at places lies in one piece, which may be above 2 GiB
    kinds = dict.fromkeys(TEXTS, text) | dict.fromkeys(PATHS, pyarrow.large_binary())
    kinds |= dict.fromkeys(NUMBERS, pyarrow.int32()) | dict.fromkeys(REALS, pyarrow.float64())
    kinds |= {"captions": pyarrow.large_list(text), "weights": pyarrow.large_list(pyarrow.float64())}
    schema = pyarrow.schema(kinds.items(), {HEADER: json.dumps(header)})

    def fill(file: BinaryIO) -> None:
        waiting, hashed = iter(examples), _Hashed(file)
        with pyarrow.ipc.new_file(hashed, schema) as writer:
            while rows := [_row(example) for example in itertools.islice(waiting, ROWS)]:
                writer.write_batch(pyarrow.RecordBatch.from_pylist(rows, schema))
        file.write(hashed.hash.digest())

    atomic.write_by(path, fill)


class _Hashed(io.RawIOBase):
    """A file, and a hash of what was written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.hash = file, xxhash.xxh3_128()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.hash.update(content)
        return self._file.write(content)


def _row(example: Example) -> dict[str, Any]:
    plain = (*TEXTS, "copy", *LISTS, *REALS)
    sides = {"width": example.size.width, "height": example.size.height}
    places = {"path": _place(example.source), "mask": example.mask and _place(example.mask)}
    return {**{name: getattr(example, name) for name in plain}, **sides, **places}


def _place(source: Source) -> bytes:
    assert isinstance(source, FileSource)
    return os.fsencode(source.place)
