"""A WebDataset: tar files in which the files of one example are called alike up to their first dot.

They are read where they lie, in any order and of any mixture: nothing is unpacked or copied.
"""

import contextlib
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data.captions import text_of
from pipeline.data.images import extensions
from pipeline.data.options import DataOptions
from pipeline.data.rows import Columns, Findings, MemberSource, Row
from pipeline.errors import DataError, reason
from pipeline.notes import Note

NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # of an example, and the kind of one of its files
TEXTS, NUMBERS, DESCRIPTIONS = ("txt", "text", "transcript"), ("cls", "cls2", "index", "inx", "id"), ("json", "jsn")
MASKS = ("mask", "mask.png", "masklabel.png")


@dataclass
class _Shard:
    """One tar file: the files of each example by kind, in the order in which they come."""

    path: Path
    examples: dict[str, dict[str, MemberSource]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def shards_of(place: Path, tables: Iterable[str]) -> list[Path]:
    """The shards to train on: a tar file, or those in a folder; [] where it is no WebDataset.

    A folder is one unless it holds tables that do not merely list what is in a shard: img2dataset writes `00000.tar`,
    `00000.parquet` and `00000_stats.json`. Raises DataError for a folder whose splits are all for something else.
    """
    if place.is_file():
        return [place] if place.suffix.lower() == ".tar" else []
    if not place.is_dir() or (place / "state.json").is_file() or (place / "dataset_dict.json").is_file():
        return []
    stems = {path.stem for path in place.rglob("*.tar")}
    beside = (path.stem for path in place.rglob("*") if path.suffix.lower() in tables and path.suffix != ".tar")
    if not stems or any(stem.removesuffix("_stats") not in stems for stem in beside):
        return []
    from datasets.data_files import DataFilesDict, get_data_patterns

    files = DataFilesDict.from_patterns(get_data_patterns(str(place)), base_path=str(place))
    splits = {str(split): names for split, names in files.filter(extensions=[".tar"]).items() if names}
    if "train" not in splits:
        raise DataError(
            f"--dataset_name {place} has no train split (there is {', '.join(splits)}); give the folder or the file of "
            "the split to train on."
        )
    return sorted(Path(name) for name in splits["train"])


def rows(shards: list[Path], options: DataOptions, findings: Findings) -> Iterator[Row]:
    """The rows of all shards; what cannot be read goes to `findings`, with the shard and the example."""
    there: set[str] = set()
    num_rows, lacking = 0, Columns()  # what an example has no file for is missing, as an empty cell of a table is
    for path in shards:
        shard = _listed(path)
        findings.problems += shard.problems
        lacking |= _columns_of(shard)
        for name, files in shard.examples.items():
            there |= files.keys()
            where = name if len(shards) == 1 else f"{path.name}: {name}"
            pictured = [kind for kind in files if _is_picture(kind, options)]
            if not pictured:
                findings.notes.append(Note("left out: no image goes with", where))
                continue
            if len(pictured) > 1:
                findings.notes.append(Note("several images under one key, of which the first is read", where))
            num_rows += 1
            mask = next((files[kind] for kind in MASKS if options.masked_loss and kind in files), None)
            yield Row(name, where, files[pictured[0]], {**lacking, **_described(files, where, findings)}, mask=mask)
    if not num_rows and not findings.problems:
        wanted = f"called .{options.image_column}; see --image_column" if options.image_column else "in it"
        findings.problems.append(
            f"there is no image {wanted} (there is {', '.join(f'.{kind}' for kind in sorted(there))})"
        )


def _is_picture(kind: str, options: DataOptions) -> bool:
    if options.image_column is not None:
        return kind == options.image_column
    return kind not in MASKS and f".{_last(kind)}" in extensions()


def _last(kind: str) -> str:
    return kind.rpartition(".")[2].lower()


def _columns_of(shard: _Shard) -> Columns:
    """The columns of a shard, each None: its kinds of texts, and the keys of its first JSON that can be read."""
    kinds = {kind for files in shard.examples.values() for kind in files}
    found: Columns = {_column(kind): None for kind in kinds if _last(kind) in TEXTS}
    for files in shard.examples.values():
        described = [file for kind, file in files.items() if kind in DESCRIPTIONS]
        with contextlib.suppress(ValueError):
            if described:
                return found | dict.fromkeys(_object(text_of(described[0].content(), "")))
    return found


def _column(kind: str) -> str:
    return "text" if kind.lower() == "txt" else kind


def _described(files: dict[str, MemberSource], where: str, findings: Findings) -> Columns:
    """What is written of an example: the text beside it, numbers, and what its JSON holds, each a column."""
    found: Columns = {}
    for kind, file in files.items():
        try:
            if kind in DESCRIPTIONS:
                found = {**_object(text_of(file.content(), f".{kind}")), **found}
            elif _last(kind) in TEXTS:
                found[_column(kind)] = text_of(file.content(), f".{kind}")
            elif _last(kind) in NUMBERS:
                found[kind] = int(text_of(file.content(), f".{kind}"))
        except ValueError as error:
            findings.problems.append(f"{where}: {error}")
    return found


def _object(text: str) -> Columns:
    """The names and values of a JSON object. Raises ValueError for anything else."""
    try:
        found: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"its .json is damaged ({reason(error)})") from error
    if not isinstance(found, dict):
        raise ValueError("its .json holds no object of names and values")
    return found


def _listed(path: Path) -> _Shard:
    """What a tar file holds, without reading the files; a torn one is a problem that names its last whole file."""
    shard, last = _Shard(path), "nothing"
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                last = member.name
                match = NAME.fullmatch(member.name)
                if not member.isfile() or match is None:
                    continue
                files = shard.examples.setdefault(match[1], {})
                if match[2] in files:
                    shard.problems.append(f"{path.name}: {member.name} is in it twice")
                files[match[2]] = MemberSource(str(path), member.offset_data, member.size)
            if MemberSource(str(path), archive.offset, tarfile.BLOCKSIZE).content() != bytes(tarfile.BLOCKSIZE):
                shard.problems.append(_torn(path, last))  # without the empty block that every tar file ends with
    except tarfile.TarError as error:
        is_torn = shard.examples and "unexpected end" in str(error)
        shard.problems.append(_torn(path, last) if is_torn else f"{path.name} is no tar file ({reason(error)})")
    return shard


def _torn(path: Path, last: str) -> str:
    return f"{path.name} ends in the middle or is damaged, after {last}: copy or make it again"
