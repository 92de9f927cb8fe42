"""What a run writes down while it trains: metrics.jsonl."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import atomic, records
from pipeline.console import tell
from pipeline.errors import CheckpointError
from pipeline.evaluation.validation import ClassRow, ValidationRow
from pipeline.geometry import Size

FILE = "metrics.jsonl"


@dataclass(frozen=True)
class RankExamples:
    """One process of several, and the examples it had of a step."""

    pid: int
    ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """One optimizer step, as metrics.jsonl keeps it: a line of JSON, without the fields that are None."""

    step: int  # counted from 1
    loss: float  # mean over the examples of the step
    learning_rate: float
    grad_norm: float  # before it was clipped; not finite where float16 overflowed and the step was left out
    seconds: float
    adapted_rate: float | None = None  # what Prodigy makes of the learning rate
    validation: ValidationRow | None = None  # measured after the step, where that was due
    of_class: ClassRow | None = None  # the same on pictures of the class
    ids: tuple[str, ...]  # of the examples
    size: Size | None = None  # of the pictures, where a run has several
    ranks: tuple[RankExamples, ...] | None = None  # with several processes


class Metrics:
    """Every step and evaluation, one JSON object per line with 'step'; each step once, also after a resume."""

    def __init__(self, folder: Path, first_step: int) -> None:
        path = folder / FILE
        kept = _rows_until(first_step, path)
        atomic.write_text(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: StepRow) -> None:
        """Append one row; non-finite numbers are written as strings, for JSON has none."""
        self._file.write(json.dumps(records.to_json(row), allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(folder: Path) -> list[StepRow]:
    """Every row of a run so far. Raises CheckpointError for a line that is damaged or not a step's."""
    path = folder / FILE
    lines = enumerate(_whole_lines(path), start=1)
    return [records.parse(StepRow, line, f"{path}, line {number}") for number, line in lines]


def validation_at(rows: Sequence[StepRow], step: int) -> ValidationRow | None:
    """What was measured after a step; None where nothing was."""
    return next((row.validation for row in rows if row.step == step), None)


def _step_of(line: str, path: Path) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} holds a line that is no step's: {line:.80}; {records.REMEDY}.") from error


def _rows_until(last_step: int, path: Path) -> list[str]:
    """The lines up to a step. What a crash left damaged after it is dropped, and said; before it, it is an error."""
    kept: list[str] = []
    for line in _whole_lines(path):
        try:
            step = _step_of(line, path)
        except CheckpointError:
            if last_step > (_step_of(kept[-1], path) if kept else 0):
                raise
            tell(f"note: {path} is damaged after step {last_step}; what stands there is dropped")
            return kept
        if step <= last_step:
            kept.append(line)
    return kept


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file that a kill may have cut: one without its newline does not count."""
    if not path.is_file():
        return []
    return records.text_in(path).split("\n")[:-1]
