"""The shards of a WebDataset, read by `datasets`' own builder also where not every example has the same files.

That builder takes the columns from the first five examples of the first shard: a set with JPEGs and PNGs, or with a
caption missing early, is refused by it, and what only comes later is nothing.
"""

import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from pipeline.data.images import extensions
from pipeline.data.options import DataOptions
from pipeline.errors import reason
from pipeline.remembered import cache_folder, remembered, settled, signature_of

VERSION = "shards 1"  # of what is kept of them
NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # of an example, and the kind of one of its files
TEXTS, NUMBERS, DESCRIPTIONS = ("txt", "text", "transcript"), ("cls", "cls2", "index", "inx", "id"), ("json", "jsn")
NUM_DESCRIBED = 1000  # examples whose JSON says which keys there are

Files = dict[str, tarfile.TarInfo]  # of one example, by kind


def shards_in(folder: Path, tables: Iterable[str]) -> dict[str, list[str]]:
    """The shards of each split; {} without any, or beside tables that do not merely list what is in a shard.

    img2dataset writes `00000.tar`, `00000.parquet` and `00000_stats.json`.
    """
    from datasets.data_files import DataFilesDict, get_data_patterns

    stems = {path.stem for path in folder.rglob("*.tar")}
    beside = (path.stem for path in folder.rglob("*") if path.suffix.lower() in tables and path.suffix != ".tar")
    if not stems or any(stem.removesuffix("_stats") not in stems for stem in beside):
        return {}
    files = DataFilesDict.from_patterns(get_data_patterns(str(folder)), base_path=str(folder))
    return {str(split): list(names) for split, names in files.filter(extensions=[".tar"]).items()}


def load(place: Path, shards: dict[str, list[str]], options: DataOptions) -> Any:
    """The train split as a table; a file that an example lacks is None in its column. Raises what `datasets` does."""
    import datasets

    features = _features(place, [Path(name) for name in shards["train"]], options)
    more = {"split": "train", "features": features, "cache_dir": options.cache_dir}
    return datasets.load_dataset("webdataset", data_files=shards, **more)


def _features(place: Path, shards: list[Path], options: DataOptions) -> Any:
    """The columns of examples that differ; None where all are alike, for then the builder finds out by itself."""
    found: list[str] = []
    with remembered(cache_folder(options.cache_dir), str(place.resolve()), VERSION, whole=True) as known:
        for shard in shards:
            before = signature_of(shard)
            kinds = known.recall(str(shard), before)
            if kinds is None:
                kinds = _kinds(shard)
                known.keep(str(shard), settled(before, shard), kinds)
            found += kinds
    return _columns({kind for kinds in found for kind in kinds.split()}, shards) if len(set(found)) > 1 else None


def _columns(kinds: set[str], shards: list[Path]) -> Any:
    """What is read of files of these kinds; others than pictures, texts, numbers and JSON are left alone."""
    import datasets

    features: dict[str, Any] = {}
    for kind in sorted(kinds):
        last = kind.rpartition(".")[2].lower()
        if f".{last}" in extensions():
            features[kind] = datasets.Image()
        elif last in TEXTS:
            features[kind] = datasets.Value("string")
        elif last in NUMBERS:
            features[kind] = datasets.Value("int64")
        elif last in DESCRIPTIONS:
            features[kind] = _described(kind, shards)
    return datasets.Features({**features, "__key__": datasets.Value("string"), "__url__": datasets.Value("string")})


def _described(kind: str, shards: list[Path]) -> Any:
    """What the JSON files of the first examples hold, all together. Raises ValueError where they contradict."""
    import datasets
    import pyarrow

    try:
        rows = [{kind: described} for described in islice(_contents(kind, shards), NUM_DESCRIBED)]
        return datasets.Features.from_arrow_schema(pyarrow.Table.from_pylist(rows).schema)[kind]
    except (pyarrow.ArrowException, ValueError) as error:
        raise ValueError(f"the .{kind} files of its examples do not fit together: {reason(error)}") from error


def _contents(kind: str, shards: list[Path]) -> Iterator[Any]:
    """What the JSON files of one kind hold."""
    for shard in shards:
        with tarfile.open(shard) as archive:
            for files in _examples(archive):
                if kind in files and (file := archive.extractfile(files[kind])) is not None:
                    yield json.load(file)


def _kinds(shard: Path) -> list[str]:
    """What examples of a shard are made of, each combination once, the kinds with spaces between them."""
    with tarfile.open(shard) as archive:
        return sorted({" ".join(sorted(files)) for files in _examples(archive)})


def _examples(archive: tarfile.TarFile) -> Iterator[Files]:
    """The files of each example: those that follow one another and are called alike up to their first dot."""
    named = ((match, member) for member in archive if member.isfile() and (match := NAME.fullmatch(member.name)))
    for _, files in groupby(named, key=lambda pair: pair[0][1]):
        yield {match[2]: member for match, member in files}
