"""What was found out about files in an earlier start, so that a second one reads none of them again.

A fact is kept with the size, times and inode of its file and holds as long as all of these do. One file of facts
belongs to one dataset or model; who reads it holds its lock, so that of several processes the first one finds
everything out while the others wait. Where nothing can be kept, everything is found out anew.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import atomic
from pipeline.console import tell
from pipeline.hashing import digest, digest_of_file

FOLDER = "known"  # in the cache
FRESH_NS = 2_000_000_000  # what changed less than this ago may change again without its time telling
SAVE_EVERY_FACTS = 1000  # at first, and later whenever a fifth is new: each time all are written


def cache_folder(cache_dir: str | None) -> Path:
    """Where encoded examples, and what is known of files, are kept: --cache_dir, or the user's own cache."""
    if cache_dir is not None:
        return Path(cache_dir) / "encoded"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t2i-lora"


class Remembered:
    """The facts about the files of one dataset or model; `kind` says how they were found, and others do not count."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path, self._kind = path, kind
        self._before = self._read()
        self._asked: dict[str, tuple[list[int], Any]] = {}
        self._num_unsaved = 0

    def recall(self, name: str, signature: list[int] | None) -> Any:
        """What is known under a name, None where that is nothing or its file has changed since."""
        found = self._before.get(name)
        if found is None or signature is None or found[0] != signature:
            return None
        self._asked[name] = signature, found[1]
        return found[1]

    def keep(self, name: str, signature: list[int] | None, fact: Any) -> None:
        """Keep a fact that JSON can hold, unless without a signature: such a file may change unseen."""
        if signature is None:
            return
        self._asked[name] = signature, fact
        self._num_unsaved += 1
        if self._num_unsaved >= max(SAVE_EVERY_FACTS, len(self._asked) // 5):
            self.save(everything=True)

    def digest_of(self, path: Path) -> str:
        """The content hash of a file."""
        name, before = str(path.absolute()), signature_of(path)
        known: str | None = self.recall(name, before)
        if known is not None:
            return known
        found = digest_of_file(path)
        self.keep(name, settled(before, path), found)
        return found

    def save(self, *, everything: bool) -> None:
        """Write down what is known; not `everything`: without what nobody asked for, for its files are gone."""
        if self._num_unsaved == 0 and (everything or len(self._asked) == len(self._before)):
            return
        facts = {**self._before, **self._asked} if everything else self._asked
        with contextlib.suppress(OSError):  # a full or write-protected disk costs the next start its time, no more
            atomic.write_text(self._path, json.dumps({"kind": self._kind, "facts": facts}, separators=(",", ":")))
        self._num_unsaved = 0

    def _read(self) -> dict[str, tuple[list[int], Any]]:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            facts = content["facts"] if content["kind"] == self._kind else {}
            return {name: (fact[0], fact[1]) for name, fact in facts.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):  # not there, or damaged: nothing is known
            return {}


def signature_of(path: Path) -> list[int] | None:
    """What changes when a file does: size, times of writing and of any change, inode; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def settled(before: list[int] | None, path: Path) -> list[int] | None:
    """The signature of a file from before it was read, if it is still the same and old enough to be relied upon."""
    if before is None or before != signature_of(path) or time.time_ns() - max(before[1:3]) < FRESH_NS:
        return None
    return before


@contextlib.contextmanager
def remembered(cache: Path, place: str, kind: str, *, whole: bool) -> Iterator[Remembered]:
    """The facts about what lies at a place, for this process alone; kept afterwards, also after an error.

    `whole`: everything that lies there is asked for, so what nobody asks for is gone and can be forgotten.
    """
    path = cache / FOLDER / f"{digest(f'{place} {kind}'.encode())}.json"
    with only_one(path.with_suffix(".lock"), f"Waiting for another process that looks at {place}"):
        facts = Remembered(path, kind)
        try:
            yield facts
        except BaseException:
            facts.save(everything=True)
            raise
        facts.save(everything=not whole)


@contextlib.contextmanager
def only_one(lock: Path, waiting: str) -> Iterator[None]:
    """Let one process at a time through; `waiting` is said where another one is at it. Where nothing locks, all are."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            held.enter_context(atomic.locked(lock, lambda: tell(waiting)))
        yield
