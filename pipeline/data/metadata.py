"""Metadata files: which image each row is about, and the cells of its columns."""

import csv
import functools
import io
import json
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from pipeline.data import captions
from pipeline.data.options import DataOptions
from pipeline.data.rows import Columns

SEPARATORS = ",;\t|"


class Names:
    """The images of a folder by what a metadata file may call them."""

    def __init__(self, folder: Path, found: dict[str, Path]) -> None:
        self.folder, self.found = folder, found
        self._composed = {unicodedata.normalize("NFC", name): name for name in found}

    @functools.cached_property
    def _real(self) -> dict[str, str]:
        return {os.path.realpath(path): name for name, path in self.found.items()}

    def of(self, written: str) -> str:
        """The name within the folder. Raises ValueError for what is an address or lies outside."""
        if written in self.found:
            return written
        if re.match(r"[a-zA-Z][\w+.-]*://", written):
            raise ValueError(f"{written} is an address; only files in the folder are read")
        name = posixpath.normpath(written.strip().replace("\\", "/"))
        if name in self.found or unicodedata.normalize("NFC", name) in self._composed:
            return name if name in self.found else self._composed[unicodedata.normalize("NFC", name)]
        within = self.folder / name  # which is the name itself where that is absolute
        places = [os.path.realpath(place) for place in (within, name)]
        if found := [self._real[place] for place in places if place in self._real]:
            return found[0]
        root = os.path.abspath(self.folder)
        inside = os.path.relpath(os.path.abspath(within), root)
        if inside.startswith("..") or re.match(r"[A-Za-z]:/", name):
            raise ValueError(f"{written} lies outside {self.folder}; put the file there and write its name in it")
        return Path(inside).as_posix()


def read(table: Path, where: str, options: DataOptions, problems: list[str]) -> list[tuple[str, Columns]]:
    """The rows of a metadata file, each with the place that messages call it by."""
    readers = {".csv": _csv_rows, ".parquet": _parquet_rows}
    try:
        return list(readers.get(table.suffix.lower(), _json_rows)(table, where, options, problems))
    except ValueError as error:
        problems.append(str(error))
        return []


def image_column(columns: Columns, options: DataOptions) -> str:
    """The column of file names. 'image' stands for file_name, as in commands made for `datasets`' imagefolder."""
    asked = options.image_column or "file_name"
    return "file_name" if asked == "image" and "image" not in columns else asked


def _json_rows(path: Path, name: str, options: DataOptions, problems: list[str]) -> Iterator[tuple[str, Columns]]:
    text = captions.read_text(path)
    if text.lstrip().startswith("["):
        raise ValueError(f"{name} is one list; write one object a line, without the brackets and commas around them")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            row = ROWS.decode(line)
        except json.JSONDecodeError as error:
            rest = "; one object a line, with no comma and nothing else after it" if error.msg == "Extra data" else ""
            problems.append(f"{where}: not JSON ({error.msg}){rest}")
            continue
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            problems.append(f"{where}: {type(row).__name__}, not an object with columns")


def _once(pairs: list[tuple[str, object]]) -> Columns:
    """A row of which no column stands there twice, which JSON would take, the last one alone; else ValueError."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{', '.join(sorted({name for name in names if names.count(name) > 1}))} stands there twice")
    return row


ROWS = json.JSONDecoder(object_pairs_hook=_once)  # made once: json.loads would make one for each line


def _parquet_rows(path: Path, name: str, options: DataOptions, problems: list[str]) -> Iterator[tuple[str, Columns]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path).read()  # not read_table, which takes columns from the names of folders
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{name} cannot be read as parquet ({error})") from error
    column = image_column(dict.fromkeys(table.column_names), options)
    if column not in table.column_names:
        there = ", ".join(table.column_names)
        step = "see --image_column, or --dataset_name for a table that holds the images themselves"
        raise ValueError(f"{name}: no column {column!r} (there is {there}); {step}")
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"{name}, row {number}", row


def _csv_rows(path: Path, name: str, options: DataOptions, problems: list[str]) -> Iterator[tuple[str, Columns]]:
    """The rows of a table as spreadsheets write it: spaces around cells do not count, nor do empty rows."""
    text = captions.read_text(path)
    separator = _separator(text, {"file_name", options.image_column or "file_name"})
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    header: list[str] | None = None
    try:
        for raw in reader:
            cells = [cell.strip() for cell in raw]
            if not any(cells) or (header is None and cells[0].lower().startswith("sep=")):
                continue
            if header is None:
                header = cells
                _require_column(header, name, options)
                continue
            where, surplus = f"{name}, line {reader.line_num}", cells[len(header) :]
            if len(cells) < len(header) or any(surplus):
                problems.append(f"{where}: not as many cells as the first line ({', '.join(header)})")
                if surplus:
                    problems[-1] += f'; put a text that holds {separator!r} in quotes: "a, b"'
            else:
                yield where, {column: cell for column, cell in zip(header, cells, strict=False) if column}
    except csv.Error as error:
        problems.append(
            f"{name}, line {reader.line_num}: not CSV ({error}); quotes stand around a whole text, and a quote in it "
            'is written twice: "a ""b"" c"'
        )


def _require_column(header: list[str], name: str, options: DataOptions) -> None:
    """Raise ValueError if the first line of a table does not name the column of images."""
    if twice := sorted({cell for cell in header if cell and header.count(cell) > 1}):
        raise ValueError(f"{name}, line 1: {', '.join(twice)} stands there twice; each column needs a name of its own")
    column = image_column(dict.fromkeys(header), options)
    if column not in header:
        there = ", ".join(cell for cell in header if cell)
        raise ValueError(
            f"{name}, line 1: no {column!r} among the names of the columns (there is {there}), which commas, "
            "semicolons or tabs keep apart; see --image_column"
        )


def _separator(text: str, wanted: set[str]) -> str:
    """What keeps the cells of a table apart: whatever sets the column of images apart in the first line."""
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and (found := re.fullmatch(r"sep=(.)\W*", lines[0].strip('"'), re.IGNORECASE)):
        return found[1]
    first = lines[0] if lines else ""
    for separator in SEPARATORS:
        if wanted & {cell.strip().strip('"').strip() for cell in first.split(separator)}:
            return separator
    return max(SEPARATORS, key=first.count)
