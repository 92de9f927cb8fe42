"""What a run writes down while it trains: metrics.jsonl always, tensorboard on request, and a line for people."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline import atomic
from pipeline.console import clock, tell

FILE = "metrics.jsonl"
LINE_EVERY_SECONDS = 15.0


class Metrics:
    """Every step and evaluation, one JSON object per line with 'step'; each step once, also after a resume."""

    def __init__(self, folder: Path, first_step: int) -> None:
        path = folder / FILE
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= first_step]
        atomic.write_text(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; non-finite numbers are written as strings, for JSON has none."""
        self._file.write(json.dumps(_safe(row), allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """Every row of a run so far."""
    return [json.loads(line) for line in _whole_lines(folder / FILE)]


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file that a kill may have cut: one without its newline does not count."""
    if not path.is_file():
        return []
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def _safe(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _safe(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_safe(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class Tensorboard:
    """Curves for tensorboard; an error there is told once and never stops the training."""

    def __init__(self, folder: Path | None, first_step: int) -> None:
        self._writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(folder, purge_step=first_step + 1)

    def write(self, step: int, values: dict[str, float], seen: dict[str, Any]) -> None:
        """Log the scalars of a step, and of the validation after it."""
        if self._writer is None:
            return
        validation = seen.get("validation", {})
        measured = {f"validation/{name}": value for name, value in validation.items() if isinstance(value, float)}
        try:
            for name, value in {**values, **measured}.items():
                self._writer.add_scalar(name, value, step)
        except Exception as error:  # a tracker is an extra: nothing it does may cost the run
            tell(f"tensorboard: {error}; logging there stops, training goes on")
            self._writer = None

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()


class Progress:
    """A bar on a terminal, a plain line every so often in a log file."""

    def __init__(self, first_step: int, num_steps: int) -> None:
        self._first, self._num_steps = first_step, num_steps
        self._started = self._last_line = time.monotonic()
        self._bar = tqdm(total=num_steps, initial=first_step, unit="step") if sys.stderr.isatty() else None

    def update(self, step: int, loss: float, learning_rate: float) -> None:
        """Tell that `step` is done."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}, lr {learning_rate:.2e}", refresh=False)
            self._bar.update(1)
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_EVERY_SECONDS or step in (self._first + 1, self._num_steps):
            self._last_line = now
            pace = (now - self._started) / (step - self._first)
            tell(
                f"step {step}/{self._num_steps}  loss {loss:.4f}  lr {learning_rate:.2e}  {pace:.2f} s/step  "
                f"{clock(pace * (self._num_steps - step))} left"
            )

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
