"""What every layout of a dataset is read into: rows of one image each, and what there is to say about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.hashing import digest
from pipeline.notes import Note
from pipeline.remembered import settled, signature_of

Columns = dict[str, Any]


@dataclass(frozen=True)
class FileSource:
    """An image file."""

    place: str  # a path in full, kept as text: of a million files, paths would take longer to make than to read

    @property
    def path(self) -> Path:
        """Where it lies."""
        return Path(self.place)

    def content(self) -> bytes:
        """The bytes of the file."""
        return self.path.read_bytes()

    def known_as(self) -> tuple[str, list[int] | None]:
        """The name that facts about it are remembered under, and the signature they hold for."""
        return str(self.path.absolute()), signature_of(self.path)

    def settled(self, signature: list[int] | None) -> list[int] | None:
        """A signature from before the file was read, if facts can be kept for it."""
        return settled(signature, self.path)


@dataclass(frozen=True)
class TableSource:
    """An image in a row of a table: its bytes, or the path of its file."""

    table: Any  # datasets.Dataset with its images left encoded
    column: str
    index: int
    folder: Path = Path()  # that paths are relative to, where they do not lead from the working directory

    def content(self) -> bytes:
        """The bytes of the image as they were put into the table.

        Raises OSError for a path without a file, ValueError for an address.
        """
        cell = self.table[self.index][self.column]
        found = cell.get("bytes") or cell.get("path") if isinstance(cell, Mapping) else cell
        if isinstance(found, str) and "://" in found:
            raise ValueError(f"{found} is an address; download the image and give its path")
        if isinstance(found, str):
            return (Path(found) if Path(found).is_file() else self.folder / found).read_bytes()
        return bytes(found or b"")

    def known_as(self) -> tuple[str, list[int] | None]:
        """The name that facts about it are remembered under: a hash of its bytes, which says everything."""
        return digest(self.content()), []

    def settled(self, signature: list[int] | None) -> list[int] | None:
        """The signature: bytes cannot change and stay the same."""
        return signature


@dataclass(frozen=True)
class MemberSource:
    """An image in a tar file, read where it lies."""

    shard: str  # a path in full
    offset: int
    size: int

    def content(self) -> bytes:
        """The bytes of the file within. Raises OSError where the tar file is gone."""
        with Path(self.shard).open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def known_as(self) -> tuple[str, list[int] | None]:
        """The name that facts about it are remembered under, and the signature they hold for: the tar file's."""
        return f"{Path(self.shard).absolute()}:{self.offset}", signature_of(Path(self.shard))

    def settled(self, signature: list[int] | None) -> list[int] | None:
        """A signature from before it was read, if facts can be kept for it."""
        return settled(signature, Path(self.shard))


Source = FileSource | TableSource | MemberSource  # where the bytes of one image are


@dataclass(frozen=True)
class Row:
    """One image and its description: the cells of its row, or the text beside it."""

    name: str  # of the file within its folder, or 'row 17' of a table
    where: str  # what messages call it: the name, and the line of a metadata file
    source: Source
    description: Columns | str | None
    repeats: int = 1  # how often it counts in an epoch
    mask: Source | None = None


@dataclass
class Findings:
    """What is found out while a dataset is read."""

    problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # left out because the options say so
    notes: list[Note] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)  # what may hold the captions or images that are not found

    def take(self, other: "Findings", label: str) -> None:
        """Add what was found out about one of several sources."""
        for name in ("problems", "skipped", "hints"):
            getattr(self, name).extend(f"{label}/{text}" for text in getattr(other, name))
        self.notes += [Note(note.kind, f"{label}/{note.case}") for note in other.notes]
