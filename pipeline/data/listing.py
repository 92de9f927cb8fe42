"""What a folder held when it was read last, as one Arrow file: while nothing in it changes, it opens in moments.

An unchanged folder is one whose files all have the names, sizes, times and inodes that they had. Nothing is taken on
trust from a folder in which something changed less than a moment ago, for that may change again without its time
telling; nor from another version of what reads it; nor from a file that is not as it was written.

What is read depends on some of the options, so a folder has a listing for each set of these: the three that were
written last are kept, and older ones go when another is written. A process that has one of those open keeps it.
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
from pipeline.remembered import FOLDER, FRESH_NS, cache_folder, only_one

VERSION = 6  # raise it when folders are read otherwise, or the file holds something else
MIN_EXAMPLES = 1000  # fewer are read as fast
KEPT = 3  # listings of one folder, each read with other options
UNREAD = frozenset({  # options that reading does not depend on
    "bucket_step", "buckets", "cache_dir", "cache_variants", "caption_dropout", "caption_variants",
    "center_crop", "class_data_dir", "class_prompt", "color_jitter", "dataloader_num_workers", "evaluation_data_dir",
    "image_interpolation_mode", "max_aspect", "max_train_samples", "num_class_images", "random_flip",
    "random_rotation", "resolution", "upscale", "validation_split", "with_prior_preservation",
})  # fmt: skip
FACTS = struct.Struct("<4q")  # of a file: size, times of writing and of any change, inode


def kept(place: Path, options: DataOptions, read: Callable[[], Manifest]) -> Manifest:
    """What a folder holds: as it is kept, where nothing has changed since, else as `read` reads it, and then kept.

    Of several processes one reads and keeps it while the others wait.
    """
    signature = signature_of(place)
    if signature is None:
        return read()
    said = {name: value for name, value in sorted(vars(options).items()) if name not in UNREAD}
    facts = [VERSION, pipeline.__version__, PIL.__version__, said]
    of_place, of_options = (digest(repr(what).encode()) for what in ([os.path.realpath(place), str(place)], facts))
    folder = cache_folder(options.cache_dir) / FOLDER
    path = folder / f"{of_place}-{of_options}.arrow"
    found = _read(path, signature, options)
    if found is not None:
        return found
    with only_one(folder / f"{of_place}.lock", f"Waiting for another process that reads {place}"):
        found = _read(path, signature, options)  # what that one has kept in the meantime
        if found is None:
            found = read()
            if len(found.examples) >= MIN_EXAMPLES and mapped.is_kept(found.examples):
                _write(path, signature, found)
                _forget(folder, of_place)
                found = _read(path, signature, options) or found  # what is only mapped takes no memory
    return found


def signature_of(place: Path) -> str | None:
    """A hash of all folders below one, and of the names, sizes, times and inodes of all files in them; None while these
    may change unseen."""
    now, newest, whole = time.time_ns(), 0, hashlib.blake2b(digest_size=16)
    try:
        for lines, changed in _folders(place):
            newest = max(newest, changed)
            for line in lines:
                whole.update(len(line).to_bytes(4, "little") + line)
    except OSError:
        return None
    return None if newest + FRESH_NS > now else whole.hexdigest()


def _folders(place: Path) -> Iterator[tuple[list[bytes], int]]:
    """Every folder below a place, also those that links lead to, and when a file in it changed last.

    Of each there is a line with its path and where that really leads, then, if it was not gone through by another path,
    a line for each of its files, in order, with where a link leads.
    """
    waiting, seen = [str(place)], {str(parent) for parent in place.resolve().parents}  # a link back up is not read
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        head = os.fsencode(folder) + b"\0" + os.fsencode(real)
        if real in seen:
            yield [head], 0
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
                line = os.fsencode(entry.name) + b"\0" + FACTS.pack(facts.st_size, written, changed, facts.st_ino)
                if entry.is_symlink():
                    line += os.fsencode(os.readlink(entry.name, dir_fd=descriptor))
                lines.append(line)
        waiting += [os.path.join(folder, name) for name in sorted(folders)]
        yield [head, *sorted(lines)], newest


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
    import pyarrow

    told = {name: getattr(manifest, name) for name in ("origin", "skipped", "duplicates")}
    notes = [[note.kind, note.case] if isinstance(note, Note) else note for note in manifest.notes]
    with contextlib.suppress(OSError, ValueError, pyarrow.ArrowException):
        mapped.write(path, manifest.examples, {**told, "notes": notes, "signature": signature})


def _forget(folder: Path, of_place: str) -> None:
    """Remove the listings of a place but for those that were written last."""
    with contextlib.suppress(OSError):
        found = sorted(folder.glob(f"{of_place}-*.arrow"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in found[KEPT:]:
            path.unlink()


def _read(path: Path, signature: str, options: DataOptions) -> Manifest | None:
    """A manifest of this signature; None where there is none, or a damaged file."""
    if not path.is_file():
        return None
    try:
        file = mapped.MappedTable.opened(path)
    except (OSError, ValueError):
        return None
    header = file.header
    if header["signature"] != signature:
        return None
    notes = tuple(note if isinstance(note, str) else Note(*note) for note in header["notes"])
    examples = mapped.Mapped(file, options)
    return Manifest(header["origin"], examples, tuple(header["skipped"]), tuple(header["duplicates"]), notes)
