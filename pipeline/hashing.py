"""Content hashes of bytes, files and parts of a model folder: the ids of examples and the keys of caches."""

import functools
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path


def digest(content: bytes) -> str:
    """The content hash used for every id and cache key: 128 bits of BLAKE2b, in hex."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def digest_of_file(path: Path) -> str:
    """The content hash of a file; computed once for a file that does not change."""
    found = path.stat()
    return _digest_once(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache
def _digest_once(path: Path, size: int, changed: int) -> str:
    """Kept by size and time of change: a model in a single file is asked for by each of its parts."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def fingerprint_of(
    folder: Path, parts: Iterable[str], extra: str = "", digest_of: Callable[[Path], str] = digest_of_file
) -> str:
    """A hash of the files of some parts of a model folder, the same wherever the folder lies."""
    pieces = [extra]
    for part in sorted(parts):
        for path in sorted((folder / part).rglob("*")):
            if path.is_file():
                pieces.append(f"{path.relative_to(folder).as_posix()} {digest_of(path)}")
    return digest("\n".join(pieces).encode())
