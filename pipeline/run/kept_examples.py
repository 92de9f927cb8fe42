"""The list of examples beside a run: what its fingerprints stand for, so that what changed since can be named."""

import itertools
import json
import operator
from dataclasses import dataclass
from pathlib import Path

from pipeline import atomic
from pipeline.data.manifest import Manifest, column
from pipeline.errors import listed
from pipeline.run.preflight import RunData

EXAMPLES_FILE = "examples.jsonl"
MOST = 100_000  # examples that are listed: 10 MB; of more, the fingerprint alone is kept
NUM_DIGITS = 16  # of a hash: equal ones by chance are one in 10^9 then
TRAINED, HELD_OUT = "trained on", "held out"


@dataclass(frozen=True)
class Kept:
    """One example as a run saw it, by the first digits of its hashes."""

    part: str  # TRAINED or HELD_OUT
    id: str  # of the picture and all that was written of it
    image_id: str
    name: str


def write(folder: Path, data: RunData) -> None:
    """List what is trained on and what is held out; no file for very many."""
    path = folder / EXAMPLES_FILE
    if sum(len(part.examples) for part in (data.manifest, data.held_out) if part is not None) > MOST:
        path.unlink(missing_ok=True)
        return
    lines = (json.dumps([row.part, row.id, row.image_id, row.name], ensure_ascii=False) for row in _rows(data))
    atomic.write_text(path, "".join(f"{line}\n" for line in lines))


def changes_since(folder: Path, data: RunData) -> str:
    """Every example that is another than when the run of this folder began, a line each; '' where nobody can say."""
    before = _read(folder / EXAMPLES_FILE)
    if before is None:
        return ""
    found = _changes(before, _rows(data))
    return f"\nOf the examples:\n{listed(found)}" if found else ""


def _rows(data: RunData) -> list[Kept]:
    parts: list[tuple[str, Manifest | None]] = [(TRAINED, data.manifest), (HELD_OUT, data.held_out)]
    found = []
    for part, manifest in parts:
        if manifest is None:
            continue
        ids, images, names = (column(manifest.examples, name) for name in ("id", "image_id", "name"))
        found += [Kept(part, _cut(id_), _cut(image), name) for id_, image, name in zip(ids, images, names, strict=True)]
    return found


def _cut(name: str) -> str:
    """The first digits of a hash, with the number of a copy that stands behind it."""
    digits, dash, copy = name.partition("-")
    return digits[:NUM_DIGITS] + dash + copy


def _read(path: Path) -> list[Kept] | None:
    """The list of an earlier run; None where there is none to be read, for it only serves a message."""
    try:
        *lines, last = path.read_text(encoding="utf-8").split("\n")
        return [Kept(*map(str, json.loads(line))) for line in lines] if lines and not last else None
    except (OSError, ValueError, TypeError):
        return None


def _changes(before: list[Kept], now: list[Kept]) -> list[str]:
    """What differs, a line for each example: its part, what is written of it, its picture, or that it is there."""
    _, gone, new = _met(before, now, "part", "id")
    moved, gone, new = _met(gone, new, "id")
    rewritten, gone, new = _met(gone, new, "name", "image_id")
    repainted, gone, new = _met(gone, new, "name")
    renamed, gone, new = _met(gone, new, "image_id")
    return [
        *(f"{row.name}: something else is written of it" for row in [*rewritten, *renamed]),
        *(f"{row.name} is another picture" for row in repainted),
        *(f"{row.name} is {row.part} now" for row in moved),
        *(f"{row.name} is gone" for row in gone),
        *(f"{row.name} is new" for row in new),
    ]


def _met(before: list[Kept], now: list[Kept], *fields: str) -> tuple[list[Kept], list[Kept], list[Kept]]:
    """The rows of now that equal one of before in these fields, one for one; what is left of before, and of now."""
    key = operator.attrgetter(*fields)
    waiting: dict[object, list[Kept]] = {}
    for row in reversed(before):
        waiting.setdefault(key(row), []).append(row)
    met, left = [], []
    for row in now:
        found = waiting.get(key(row))
        if found:
            found.pop()
            met.append(row)
        else:
            left.append(row)
    return met, sorted(itertools.chain(*waiting.values()), key=lambda row: row.name), left
