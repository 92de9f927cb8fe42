"""A WebDataset: tar files in which the files of one example are called alike up to their first dot.

They are read where they lie, in any order and of any mixture: nothing is unpacked or copied.
"""

import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline import front_matter
from pipeline.data.captions import text_of
from pipeline.data.folder import UNREAD
from pipeline.data.images import extensions, remedy
from pipeline.data.options import DataOptions
from pipeline.data.rows import Columns, Findings, MemberSource, Row
from pipeline.errors import DataError, reason
from pipeline.notes import Note

NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # of an example, and the kind of one of its files
TEXTS, DESCRIPTIONS = ("txt", "text", "transcript", "cls", "cls2", "index", "inx", "id"), ("json", "jsn")
MASKS = ("mask", "mask.png", "masklabel.png")  # kinds, or columns of a table


Files = dict[str, MemberSource]  # of one example, by their kind


def shards_of(place: Path, options: DataOptions, tables: Iterable[str]) -> list[Path]:
    """The shards to train on: a tar file, or those in a folder; [] where it is something else.

    A folder is a WebDataset unless it holds pictures, or tables that do not merely list what is in a shard: img2dataset
    writes `00000.tar`, `00000.parquet` and `00000_stats.json`. Where a README says which files are which, `datasets`
    reads it. Raises DataError for a folder whose splits are all for something else.
    """
    if place.is_file():
        return [place] if place.suffix.lower() == ".tar" else []
    told = front_matter.fields_or_nothing(place / "README.md")
    is_told = options.dataset_config_name is not None or "configs" in told
    if not place.is_dir() or is_told or any((place / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return []
    splits = _splits(place)
    stems = {path.stem for names in splits.values() for path in names}
    for path in place.rglob("*") if stems else ():
        kind = path.suffix.lower()
        is_hidden = any(part.startswith(".") for part in path.relative_to(place).parts)
        is_list = kind in tables and path.stem.removesuffix("_stats") in stems
        if not is_hidden and (kind in extensions() or (kind in tables and not is_list)) and path.is_file():
            return []
    if splits and "train" not in splits:
        raise DataError(
            f"--dataset_name {place} has no train split (there is {', '.join(splits)}); give the folder or the file of "
            "the split to train on."
        )
    return sorted(splits.get("train", ()))


def _splits(place: Path) -> dict[str, list[Path]]:
    """The shards of each split, as `datasets` tells splits by the names of files and folders."""
    if not any(place.rglob("*.tar")):
        return {}
    from datasets.data_files import DataFilesDict, get_data_patterns

    try:
        files = DataFilesDict.from_patterns(get_data_patterns(str(place)), base_path=str(place))
    except FileNotFoundError:  # nothing but hidden files
        return {}
    shards = files.filter(extensions=[".tar"])
    return {str(split): [Path(name) for name in names] for split, names in shards.items() if names}


def rows(shards: list[Path], options: DataOptions, findings: Findings) -> Iterator[Row]:
    """The rows of all shards; what cannot be read goes to `findings`, with the shard and the example."""
    seen: dict[str, None] = {}  # every kind of file, in the order in which they come
    num_rows, lacking = 0, Columns()  # what an example has no file for is missing, as an empty cell of a table is
    for path in shards:
        shard = _listed(path, findings)
        seen |= dict.fromkeys(kind for files in shard.values() for kind in files)
        ranks = {kind: ("." in kind, place) for place, kind in enumerate(seen)}  # a.jpg before a.canny.png, everywhere
        place = {name: name if len(shards) == 1 else f"{path.name}: {name}" for name in shard}
        described = {name: _described(files, place[name], findings) for name, files in shard.items()}
        lacking |= dict.fromkeys(_column(kind) for kind in seen if _last(kind) in TEXTS)
        lacking |= dict.fromkeys(column for found in described.values() for column in found)
        for name, files in shard.items():
            pictured = sorted((kind for kind in files if _is_picture(kind, options)), key=ranks.__getitem__)
            if not pictured:
                _without_picture(files, place[name], options, findings)
                continue
            if len(pictured) > 1:
                findings.notes.append(
                    Note(f"several images under one key, of which .{pictured[0]} is read", place[name])
                )
            num_rows += 1
            mask = next((files[kind] for kind in MASKS if options.masked_loss and kind in files), None)
            yield Row(name, place[name], files[pictured[0]], {**lacking, **described[name]}, mask=mask)
    if not num_rows and not findings.problems:
        wanted = f"called .{options.image_column}; see --image_column" if options.image_column else "in it"
        there = ", ".join(f".{kind}" for kind in sorted(seen))
        findings.problems.append(f"there is no image {wanted} (there is {there})")


def _without_picture(files: Files, where: str, options: DataOptions, findings: Findings) -> None:
    """Say what an example without an image has: one in a format that is not read is a bad one."""
    unread = [kind for kind in files if f".{_last(kind)}" in UNREAD and options.image_column in (None, kind)]
    if not unread:
        findings.notes.append(Note("left out: no image goes with", where))
        return
    text = f"{where}: .{unread[0]} is not read; {remedy(f'.{_last(unread[0])}')}"
    if options.on_bad_image == "skip":
        findings.skipped.append(text)
    else:
        findings.problems.append(f"{text} (--on_bad_image skip leaves it out)")


def _is_picture(kind: str, options: DataOptions) -> bool:
    if options.image_column is not None:
        return kind == options.image_column
    return kind not in MASKS and f".{_last(kind)}" in extensions()


def _last(kind: str) -> str:
    return kind.rpartition(".")[2].lower()


def _column(kind: str) -> str:
    return "text" if kind.lower() == "txt" else kind


def _described(files: Files, where: str, findings: Findings) -> Columns:
    """What is written of an example: the texts beside it, and what its JSON holds, each a column."""
    found: Columns = {}
    for kind, file in files.items():
        try:
            if kind in DESCRIPTIONS:
                found = {**_object(text_of(file.content(), f".{kind}")), **found}
            elif _last(kind) in TEXTS:
                found[_column(kind)] = text_of(file.content(), f".{kind}")
        except ValueError as error:
            findings.problems.append(f"{where}: {error}")
    return found


def _object(text: str) -> Columns:
    """The names and values of a JSON object. Raises ValueError for anything else."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its .json is damaged ({reason(error)})") from error
    if not isinstance(found, dict):
        raise ValueError("its .json holds no object of names and values")
    return found


def _listed(path: Path, findings: Findings) -> dict[str, Files]:
    """The files of each example of a shard, without reading them. Of a torn one the last whole file is named."""
    found: dict[str, Files] = {}
    last = "nothing"
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                last = member.name
                match = NAME.fullmatch(member.name)
                if not member.isfile() or match is None:
                    continue
                files = found.setdefault(match[1], {})
                if match[2] in files or member.issparse():
                    why = "stored with holes (sparse)" if member.issparse() else "in it twice"
                    findings.problems.append(f"{path.name}: {member.name} is {why}")
                files[match[2]] = MemberSource(str(path), member.offset_data, member.size)
            end = MemberSource(str(path), archive.offset, tarfile.BLOCKSIZE).content()
        if not end:
            findings.notes.append(
                Note("without the mark at the end of a tar file, so perhaps cut off", f"{path.name} after {last}")
            )
        elif end != bytes(tarfile.BLOCKSIZE):
            findings.problems.append(_torn(path, last))
    except tarfile.TarError as error:
        with path.open("rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
        why = "it is compressed, unpack it with gunzip" if is_gzip else reason(error)
        is_torn = found and "unexpected end" in str(error)
        findings.problems.append(_torn(path, last) if is_torn else f"{path.name} is no tar file ({why})")
    except OSError as error:
        findings.problems.append(f"{path.name} cannot be read ({reason(error)})")
    return found


def _torn(path: Path, last: str) -> str:
    return f"{path.name} ends in the middle or is damaged, after {last}: copy or make it again"
