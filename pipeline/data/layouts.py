"""Where pictures and their descriptions come from: a folder or a `datasets` table, row by row, nothing checked yet.

A folder holds a metadata.jsonl or metadata.csv at its top, or one .txt beside each image; sub-folders
are read too. A table is a Hub dataset, a folder of parquet files or what `Dataset.save_to_disk` wrote.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data import captions
from pipeline.data.options import DataOptions
from pipeline.errors import DataError
from pipeline.hub_ids import may_be_hub_id

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
UNREAD_EXTENSIONS = frozenset({".heic", ".heif", ".avif", ".jxl", ".svg", ".psd", ".raw", ".dng"})
JUNK = frozenset({"thumbs.db", "desktop.ini"})
METADATA = ("metadata.jsonl", "metadata.csv")
SURPLUS = "\0"  # under which csv keeps cells beyond the last column
Columns = dict[str, Any]


@dataclass(frozen=True)
class FileSource:
    """An image file."""

    path: Path

    def content(self) -> bytes:
        """The bytes of the file."""
        return self.path.read_bytes()


@dataclass(frozen=True)
class TableSource:
    """An image in a row of a table."""

    table: Any  # datasets.Dataset with its images left encoded
    column: str
    index: int

    def content(self) -> bytes:
        """The bytes of the image as they were put into the table."""
        cell = self.table[self.index][self.column]
        if cell is None:
            return b""
        return bytes(cell["bytes"]) if cell["bytes"] is not None else Path(cell["path"]).read_bytes()


Source = FileSource | TableSource  # where the bytes of one image are


@dataclass(frozen=True)
class Row:
    """One image and its description: the cells of its row, or the text beside it."""

    name: str  # of the file within its folder, or 'row 17' of a table
    where: str  # what messages call it: the name, and the line of a metadata file
    source: Source
    description: Columns | str | None


def folder_rows(folder: Path, options: DataOptions, problems: list[str]) -> Iterator[Row]:
    """The rows of a folder of images; whatever does not fit together goes to `problems`."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(_image_files(folder, problems))}
    tables = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(tables) > 1:
        problems.append("there are a metadata.jsonl and a metadata.csv; keep one, for they might disagree")
    elif tables:
        yield from _listed_rows(tables[0], found, options, problems)
    else:
        if options.caption_template is not None:
            problems.append("--caption_template takes its words from columns, and there is no metadata.jsonl or .csv")
        for name, path in found.items():
            try:
                yield Row(name, name, FileSource(path), captions.read_sidecar(path))
            except ValueError as error:
                problems.append(str(error))


def _listed_rows(table: Path, found: dict[str, Path], options: DataOptions, problems: list[str]) -> Iterator[Row]:
    """The files that a metadata file lists; rows without a file and files without a row are problems."""
    wrong: list[str] = []
    try:
        rows = list((_csv_rows if table.suffix == ".csv" else _json_rows)(table, wrong))
    except ValueError as error:
        problems.append(str(error))
        return
    seen: dict[str, tuple[str, Columns]] = {}
    for where, columns in rows:
        column = _image_column(columns, options)
        if column not in columns:
            there = ", ".join(sorted(columns))
            wrong.append(f"{where}: no {column!r} (there is {there}); see --image_column")
        elif (name := str(columns[column])) in seen:
            wrong.append(f"{where}: {name} already has a row")
        else:
            seen[name] = where, {key: value for key, value in columns.items() if key != column}
    problems.extend(wrong)
    problems.extend(f"{table.name}: {name} has a row but there is no such file" for name in seen.keys() - found.keys())
    if not wrong:
        problems.extend(f"{name}: has no row in {table.name}" for name in sorted(found.keys() - seen))
    for name in sorted(found.keys() & seen):
        where, columns = seen[name]
        yield Row(name, f"{where}, {name}", FileSource(found[name]), columns)


def _image_column(columns: Columns, options: DataOptions) -> str:
    """The column of file names. 'image' stands for file_name, as in commands made for `datasets`' imagefolder."""
    asked = options.image_column or "file_name"
    return "file_name" if asked == "image" and "image" not in columns else asked


def _json_rows(path: Path, problems: list[str]) -> Iterator[tuple[str, Columns]]:
    for number, line in enumerate(captions.read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"{where}: not JSON ({error.msg})")
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            problems.append(f"{where}: {type(row).__name__}, not an object with columns")


def _csv_rows(path: Path, problems: list[str]) -> Iterator[tuple[str, Columns]]:
    reader = csv.DictReader(io.StringIO(captions.read_text(path), newline=""), restkey=SURPLUS, strict=True)
    try:
        for row in reader:
            where = f"{path.name}, line {reader.line_num}"
            if SURPLUS in row or None in row.values():
                problems.append(f"{where}: not as many cells as the first line ({', '.join(reader.fieldnames or ())})")
            else:
                yield where, {name: value for name, value in row.items() if name}
    except csv.Error as error:
        problems.append(f"{path.name}, line {reader.line_num}: not CSV ({error})")


def _image_files(folder: Path, problems: list[str]) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            path = Path(parent, name)
            if name.startswith(".") or name.lower() in JUNK:
                continue
            if path.suffix.lower() in EXTENSIONS:
                yield path
            elif path.suffix.lower() in UNREAD_EXTENSIONS:
                problems.append(f"{path.relative_to(folder).as_posix()}: {path.suffix} is not read; convert it to PNG")


def table_rows(options: DataOptions, problems: list[str]) -> Iterator[Row]:
    """The rows of --dataset_name; names of classes stand in place of their numbers."""
    import datasets

    table = _open_table(options)
    column = options.image_column or "image"
    kind = table.features.get(column)
    if not isinstance(kind, datasets.Image):
        there = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in table.features.items())
        problems.append(f"no column of images called {column!r} (there is {there}); see --image_column")
        return
    images = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    media = (datasets.Image, datasets.Audio, datasets.Video)
    table = table.remove_columns([name for name, feature in table.features.items() if isinstance(feature, media)])
    names = {key: feature.names for key, feature in table.features.items() if isinstance(feature, datasets.ClassLabel)}
    rows: Iterable[Columns] = table if table.features else ({} for _ in range(len(images)))
    for index, cells in enumerate(rows):
        description = {key: _class_name(names[key], value) if key in names else value for key, value in cells.items()}
        yield Row(f"row {index}", f"row {index}", TableSource(images, column, index), description)


def _class_name(names: list[str], value: int | None) -> str | None:
    """The name of a class; `datasets` writes -1 where it is unknown."""
    return None if value is None or value < 0 else names[value]


def _open_table(options: DataOptions) -> Any:
    """The train split of a dataset. Raises DataError in a sentence, whatever `datasets` says."""
    import datasets

    datasets.disable_progress_bars()
    name, config = options.dataset_name or "", options.dataset_config_name
    folder = Path(name)
    try:
        if (folder / "state.json").is_file():
            return datasets.load_from_disk(name)
        if (folder / "dataset_dict.json").is_file():
            return datasets.load_from_disk(name)["train"]
        if not folder.is_dir() and "/" in name and not may_be_hub_id(name):
            raise DataError(f"--dataset_name {name} does not exist; give a folder or a Hub id (user/name).")
        return datasets.load_dataset(name, config, split="train", cache_dir=options.cache_dir)
    except DataError:
        raise
    except Exception as error:  # datasets and the Hub client raise many kinds; each means the same to the user
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = "cannot be read" if folder.is_dir() else "is neither a folder here nor to be had from the Hub"
        raise DataError(f"--dataset_name {name} {where} ({reason}).") from error
