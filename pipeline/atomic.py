"""Writing that survives a kill or a full disk: to a temporary path, to the disk, then renamed into place."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeGuard

if TYPE_CHECKING:
    from torch import Tensor


NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what NFS, Lustre and others answer
_held: dict[Path, int] = {}  # folders this process holds, and the open descriptors that do it


def write_bytes(path: Path, content: bytes) -> None:
    """Put `content` at `path`: afterwards it is there whole, or what was there before still is."""
    write_by(path, lambda file: file.write(content))


def write_by(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """The same for what `fill` writes, piece by piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temp.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)
    _sync_folder(path.parent)


def is_full(error: BaseException) -> TypeGuard[OSError]:
    """Whether a disk or a quota has no room left."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_text(path: Path, content: str) -> None:
    """The same for text, as UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_tensors(path: Path, tensors: "dict[str, Tensor]", header: dict[str, str] | None = None) -> None:
    """The same for tensors, as safetensors with equal bytes for equal content, and texts in the header.

    safetensors writes several texts in random order, and then equal files have different hashes: so
    the header is put together here, in the order of its names.
    """
    from safetensors.torch import save  # here, so that a wrong flag is answered without loading torch

    ordered = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    content = save(ordered)
    if not header:
        return write_bytes(path, content)
    start = 8 + int.from_bytes(content[:8], "little")  # safetensors: the header's length in 8 bytes, then the header
    fields = {"__metadata__": dict(sorted(header.items())), **json.loads(content[8:start])}
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return write_bytes(path, len(text).to_bytes(8, "little") + text + content[start:])


def commit_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make `folder` by filling another one beside it: it exists complete or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temp = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir()
    try:
        fill(temp)
        _sync_folder(temp)
        if folder.exists():
            remove_folder(folder)
        os.rename(temp, folder)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    _sync_folder(folder.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a kill half-way leaves no half folder under its name."""
    trash = folder.with_name(f".{folder.name}.trash")
    shutil.rmtree(trash, ignore_errors=True)
    os.rename(folder, trash)
    shutil.rmtree(trash)


def remove_leftovers(folder: Path, *patterns: str) -> None:
    """Remove what a kill left of the writing and removing of the names that match, in a folder that is held."""
    for pattern in patterns:
        for path in [*folder.glob(f".{pattern}.tmp"), *folder.glob(f".{pattern}.trash")]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def hold_folder(folder: Path, patience: float) -> bool:
    """Keep other runs out of a folder until this process ends, however it ends; False if one stays in it.

    Waits `patience` seconds: the worker of a launcher that was killed still ends its step and saves.
    A file system that cannot lock a folder is trusted.
    """
    if folder.resolve() in _held:
        return True
    descriptor = os.open(folder, os.O_RDONLY)
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                return False
            time.sleep(0.1)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            os.close(descriptor)
            return True
        else:
            _held[folder.resolve()] = descriptor
            return True


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock that a file stands for, which stays there empty; `on_wait` is called where another process has it.

    Raises OSError where it cannot be made or locked. The system frees the lock of a process that ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there. Raises OSError where that cannot be found out."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def release_folder(folder: Path) -> None:
    """Let other runs into a folder again."""
    descriptor = _held.pop(folder.resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
