"""What a folder held when it was read last, as one parquet file: while nothing in it changes, it opens in moments.

An unchanged folder is one whose files all have the names, sizes, times and inodes that they had. Nothing is taken on
trust from a folder in which something changed less than a moment ago, for that may change again without its time
telling; nor from another version of what reads it.
"""

import contextlib
import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL

import pipeline
from pipeline import atomic
from pipeline.data.manifest import Example, Manifest
from pipeline.data.options import DataOptions
from pipeline.data.rows import FileSource, Source
from pipeline.geometry import Size
from pipeline.hashing import digest
from pipeline.notes import Note
from pipeline.remembered import FOLDER, FRESH_NS, cache_folder

VERSION = 1  # raise it when folders are read otherwise, or the file holds something else
PLAIN = ("id", "image_id", "name", "captions", "weights", "copy", "mask_id", "group", "sketch")  # kept as they are
HEADER = b"t2i-lora"  # the key of what is no row
MIN_EXAMPLES = 1000  # fewer are read as fast
UNREAD = ("cache_dir", "dataloader_num_workers")  # options that reading does not depend on


def kept(place: Path, options: DataOptions, read: Callable[[], Manifest]) -> Manifest:
    """What a folder holds: as it is kept, where nothing has changed since, else as `read` reads it, and then kept."""
    signature = signature_of(place)
    if signature is None:
        return read()
    said = {name: value for name, value in sorted(vars(options).items()) if name not in UNREAD}
    facts = [VERSION, pipeline.__version__, PIL.__version__, os.path.realpath(place), str(place), said]
    path = cache_folder(options.cache_dir) / FOLDER / f"{digest(repr(facts).encode())[:32]}.parquet"
    found = _read(path, signature, options)
    if found is None:
        found = read()
        if len(found.examples) >= MIN_EXAMPLES:
            _write(path, signature, found)
    return found


def signature_of(place: Path) -> str | None:
    """A hash of the names, sizes, times and inodes of all files below a folder; None while it may change unseen."""
    now, newest, lines = time.time_ns(), 0, list[str]()
    try:
        for folder, entries in _folders(place):
            lines.append(folder)
            for entry in entries:
                facts = _facts(entry)
                newest = max(newest, facts.st_mtime_ns, facts.st_ctime_ns)
                lines.append(f"{entry.name}\0{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns} {facts.st_ino}")
    except OSError:
        return None
    return None if newest + FRESH_NS > now else digest("\n".join(lines).encode("utf-8", "surrogateescape"))


def _folders(place: Path) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Every folder below a place, also those that links lead to, each once, with what is no folder in it."""
    waiting, seen = [str(place)], set[str]()
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        waiting += [entry.path for entry in entries if entry.is_dir()]
        yield folder, [entry for entry in entries if not entry.is_dir()]


def _facts(entry: "os.DirEntry[str]") -> os.stat_result:
    """Of the file that a link leads to, where there is one."""
    try:
        return entry.stat()
    except FileNotFoundError:
        return entry.stat(follow_symlinks=False)


def _write(path: Path, signature: str, manifest: Manifest) -> None:
    """Keep a manifest, unless it holds something else than files. What cannot be kept costs the next start its time."""
    import pyarrow
    from pyarrow import parquet

    sources = [source for e in manifest.examples for source in (e.source, e.mask) if source is not None]
    if not all(isinstance(source, FileSource) for source in sources):
        return
    examples = manifest.examples
    columns: dict[str, list[Any]] = {name: [getattr(example, name) for example in examples] for name in PLAIN}
    columns["path"] = [_place(example.source) for example in examples]
    columns["mask"] = [None if example.mask is None else _place(example.mask) for example in examples]
    columns["width"] = [example.size.width for example in examples]
    columns["height"] = [example.size.height for example in examples]
    told = {name: getattr(manifest, name) for name in ("origin", "skipped", "duplicates")}
    notes = [[note.kind, note.case] if isinstance(note, Note) else note for note in manifest.notes]
    header = json.dumps({**told, "notes": notes, "signature": signature})
    table = pyarrow.table(columns, schema=_schema()).replace_schema_metadata({HEADER: header})
    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(table, buffer, compression="zstd")
    with contextlib.suppress(OSError):
        atomic.write_bytes(path, buffer.getvalue().to_pybytes())


def _place(source: Source) -> str:
    assert isinstance(source, FileSource)
    return source.place


def _read(path: Path, signature: str, options: DataOptions) -> Manifest | None:
    """A manifest of this signature; None where there is none, or a damaged file."""
    if not path.is_file():
        return None
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        header = json.loads(file.schema_arrow.metadata[HEADER])
        if header["signature"] != signature:
            return None
        columns = file.read().to_pydict()
        with _nothing_to_collect():
            examples = tuple(
                _example(dict(zip(columns, values, strict=True)), options)
                for values in zip(*columns.values(), strict=True)
            )
    except (pyarrow.ArrowException, OSError, LookupError, ValueError, TypeError):
        return None
    notes = tuple(note if isinstance(note, str) else Note(*note) for note in header["notes"])
    return Manifest(header["origin"], examples, tuple(header["skipped"]), tuple(header["duplicates"]), notes)


@contextlib.contextmanager
def _nothing_to_collect() -> Iterator[None]:
    """Without the search for garbage, which takes a quarter of the time where only objects that stay are made."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _example(row: dict[str, Any], options: DataOptions) -> Example:
    return Example(
        id=row["id"],
        image_id=row["image_id"],
        name=row["name"],
        source=FileSource(row["path"]),
        captions=tuple(row["captions"]),
        size=Size(row["width"], row["height"]),
        options=options,
        copy=row["copy"],
        mask=FileSource(row["mask"]) if row["mask"] is not None else None,
        weights=tuple(row["weights"]),
        mask_id=row["mask_id"],
        group=row["group"],
        sketch=row["sketch"],
    )


def _schema() -> Any:
    import pyarrow

    text, number = pyarrow.string(), pyarrow.int32()
    kinds = dict.fromkeys(("id", "image_id", "name", "mask_id", "group", "sketch", "path", "mask"), text)
    kinds |= dict.fromkeys(("copy", "width", "height"), number)
    lists = {"captions": pyarrow.list_(text), "weights": pyarrow.list_(pyarrow.float64())}
    return pyarrow.schema([*kinds.items(), *lists.items()])
