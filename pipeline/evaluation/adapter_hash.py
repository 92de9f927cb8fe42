"""Which adapter something was measured of: a hash of its file."""

from pathlib import Path

from pipeline.adapter.names import FILE
from pipeline.hashing import digest_of_file


def hash_of(folder: Path) -> str | None:
    """That of the adapter in an output folder or a checkpoint; None where there is none."""
    return digest_of_file(folder / FILE) if (folder / FILE).is_file() else None
