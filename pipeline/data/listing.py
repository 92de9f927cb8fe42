"""What a folder held when it was read last, as one Arrow file: while nothing in it changes, it opens in moments.

An unchanged folder is one whose files all have the names, sizes, times and inodes that they had. Nothing is taken on
trust from a folder in which something changed less than a moment ago, for that may change again without its time
telling; nor from another version of what reads it.
"""

import contextlib
import hashlib
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import PIL

import pipeline
from pipeline.data import mapped
from pipeline.data.manifest import Manifest
from pipeline.data.options import DataOptions
from pipeline.hashing import digest
from pipeline.notes import Note
from pipeline.remembered import FOLDER, FRESH_NS, cache_folder

VERSION = 2  # raise it when folders are read otherwise, or the file holds something else
MIN_EXAMPLES = 1000  # fewer are read as fast
UNREAD = ("cache_dir", "dataloader_num_workers")  # options that reading does not depend on
FACTS = struct.Struct("<4q")  # of a file: size, times of writing and of any change, inode


def kept(place: Path, options: DataOptions, read: Callable[[], Manifest]) -> Manifest:
    """What a folder holds: as it is kept, where nothing has changed since, else as `read` reads it, and then kept."""
    signature = signature_of(place)
    if signature is None:
        return read()
    said = {name: value for name, value in sorted(vars(options).items()) if name not in UNREAD}
    facts = [VERSION, pipeline.__version__, PIL.__version__, os.path.realpath(place), str(place), said]
    path = cache_folder(options.cache_dir) / FOLDER / f"{digest(repr(facts).encode())[:32]}.arrow"
    found = _read(path, signature, options)
    if found is None:
        found = read()
        if len(found.examples) >= MIN_EXAMPLES and mapped.is_kept(found.examples):
            _write(path, signature, found)
            found = _read(path, signature, options) or found  # what is only mapped takes no memory
    return found


def signature_of(place: Path) -> str | None:
    """A hash of the names, sizes, times and inodes of all files below a folder; None while it may change unseen."""
    now, newest, whole = time.time_ns(), 0, hashlib.blake2b(digest_size=16)
    try:
        for folder, lines, changed in _folders(place):
            newest = max(newest, changed)
            for line in (os.fsencode(folder), *lines):
                whole.update(line + b"\n")
    except OSError:
        return None
    return None if newest + FRESH_NS > now else whole.hexdigest()


def _folders(place: Path) -> Iterator[tuple[str, list[bytes], int]]:
    """Every folder below a place, also those that links lead to, each once: a line for each of its files, in order, and
    when one changed last."""
    waiting, seen = [str(place)], set[str]()
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        folders, lines, newest = list[str](), list[bytes](), 0
        with _descriptor(folder) as descriptor, os.scandir(descriptor) as entries:
            for entry in entries:  # each is let go, for it holds all that is known of its file
                if entry.is_dir():
                    folders.append(entry.name)
                    continue
                facts = _facts(entry)
                written, changed = facts.st_mtime_ns, facts.st_ctime_ns
                newest = max(newest, written, changed)
                line = FACTS.pack(facts.st_size, written, changed, facts.st_ino)
                lines.append(os.fsencode(entry.name) + b"\0" + line)
        waiting += [os.path.join(folder, name) for name in sorted(folders)]
        yield folder, sorted(lines), newest


@contextlib.contextmanager
def _descriptor(folder: str) -> Iterator[int]:
    """An open folder: to ask for a file in it is half the work of asking for its path."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _facts(entry: "os.DirEntry[str]") -> os.stat_result:
    """Of the file that a link leads to, where there is one."""
    try:
        return entry.stat()
    except FileNotFoundError:
        return entry.stat(follow_symlinks=False)


def _write(path: Path, signature: str, manifest: Manifest) -> None:
    """Keep a manifest. What cannot be kept costs the next start its time."""
    told = {name: getattr(manifest, name) for name in ("origin", "skipped", "duplicates")}
    notes = [[note.kind, note.case] if isinstance(note, Note) else note for note in manifest.notes]
    with contextlib.suppress(OSError):
        mapped.write(path, manifest.examples, {**told, "notes": notes, "signature": signature})


def _read(path: Path, signature: str, options: DataOptions) -> Manifest | None:
    """A manifest of this signature; None where there is none, or a damaged file."""
    if not path.is_file():
        return None
    import pyarrow

    try:
        file = mapped.MappedTable.opened(path)
        if file.header["signature"] != signature:
            return None
        header, examples = file.header, mapped.Mapped(file, options)
    except (pyarrow.ArrowException, OSError, LookupError, ValueError, TypeError):
        return None
    notes = tuple(note if isinstance(note, str) else Note(*note) for note in header["notes"])
    return Manifest(header["origin"], examples, tuple(header["skipped"]), tuple(header["duplicates"]), notes)
