"""docs/evidence.jsonl: what was measured, a line for each claim, side and seed, with the code that measured it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pipeline
from pipeline import records
from pipeline.hashing import digest, digest_of_file

# Whatever decides a number; how it is shown or told decides none.
DECIDING = (
    "adapter", "commands/evaluation", "conditioning.py", "data", "engine.py", "evaluation", "evidence/measured.py",
    "families", "objective", "rng.py", "run", "starter", "training",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One side of a claim with one seed."""

    claim: str
    side: str
    seed: int
    settings: dict[str, Any]  # beside the common ones
    common: str  # a hash of these
    code: str  # a hash of all code and weights that decide the numbers
    versions: dict[str, str]
    measured: dict[str, float]
    seconds: float  # of CPU; 0 where another claim had this very run


def read(path: Path) -> list[Row]:
    """All rows so far, none where there is no file. Raises CheckpointError for a line that is damaged."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [records.parse(Row, line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def append(path: Path, row: Row) -> None:
    """Add a row, in one write: several processes may fill one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(records.to_json(row), allow_nan=False) + "\n")


def same_run(rows: Sequence[Row], settings: dict[str, Any], seed: int, common: str, code: str) -> list[Row]:
    """Those of the very same run, whichever claims they belong to."""
    wanted = (settings, seed, common, code)
    return [row for row in rows if (row.settings, row.seed, row.common, row.code) == wanted]


def hash_of(common: dict[str, Any]) -> str:
    """A hash of the options that all runs share."""
    return digest(json.dumps(common, sort_keys=True).encode())


def code_fingerprint() -> str:
    """A hash of the code and the weights that decide the numbers."""
    root = Path(pipeline.__file__).parent
    paths = [
        path for name in DECIDING for path in ([root / name] if name.endswith(".py") else (root / name).rglob("*"))
    ]
    files = sorted(path for path in paths if path.is_file() and "__pycache__" not in path.parts)
    return digest("\n".join(f"{path.relative_to(root).as_posix()} {digest_of_file(path)}" for path in files).encode())
