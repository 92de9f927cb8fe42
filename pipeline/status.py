"""status.json: what the run is doing, whether it can be believed, and what to type next. True at every moment."""

import functools
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Literal

from pipeline import atomic
from pipeline.errors import EXIT_STOPPED

State = Literal["starting", "training", "finishing", "done", "interrupted", "failed", "incomplete"]
FILE, SCRIPT, COMMAND = "status.json", "train_lora.py", "t2i-lora"


class Status:
    """Writes status.json in the output folder, once the folder is this run's."""

    def __init__(self, folder: Path, *, debug: bool = False) -> None:
        self.folder, self.debug = folder, debug
        self.step = 0
        self.claimed = False
        self._begins_from: str | None = None  # a checkpoint that is named, perhaps of another folder

    @property
    def has_checkpoint(self) -> bool:
        """Whether the run has left one."""
        return any(self.folder.glob("checkpoint-[0-9]*"))

    def goes_on_from(self, resume: str | None) -> None:
        """Every process knows it: the first may be gone when a survivor says what to type."""
        self._begins_from = None if resume in (None, "latest") else str(Path(resume).resolve())

    def lives(self) -> bool:
        """Whether the file does not say that the run has ended: the first process may have said why before it went."""
        try:
            found = json.loads((self.folder / FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # moved away, or half written on a full disk
            return True
        return found["exit_code"] is None

    def resume_command(self) -> str:
        """The line that goes on from the last checkpoint of the run, or starts it as it was when there is none."""
        start = "latest" if self._begins_from is None or self.has_checkpoint else self._begins_from
        return _command("--config", str(self.folder / "run.toml"), "--resume_from_checkpoint", start)

    def write(
        self, state: State, message: str, *, exit_code: int | None = None, next_command: str | None = None
    ) -> None:
        """Replace the file; `exit_code` is None while the run lives."""
        command = next_command if next_command is not None else self.resume_command()
        row = {
            "state": state,
            "exit_code": exit_code,
            "step": self.step,
            "message": message,
            "next_command": None if state == "done" or exit_code == EXIT_STOPPED else command,  # it would stop again
        }
        content = json.dumps(row, indent=2, ensure_ascii=False) + "\n"
        try:
            atomic.write_text(self.folder / FILE, content)
        except OSError as error:
            if not atomic.is_full(error):
                raise
            _write_over(self.folder / FILE, content)


def _write_over(path: Path, content: str) -> None:
    """Write where a file's blocks are already: on a full disk that is the only way to keep it true."""
    with path.open("r+b") as file:
        file.write(content.encode("utf-8"))
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def launched_by_accelerate() -> bool:
    """Whether `accelerate launch` started this process."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ


def _command(*words: str) -> str:
    if Path(sys.argv[0]).name == COMMAND:
        return shlex.join([COMMAND, "train", *words])
    start = ["accelerate", "launch", *(launcher_words() or [])] if launched_by_accelerate() else ["python"]
    return shlex.join([*start, _script(), *words])


def _script() -> str:
    return sys.argv[0] if Path(sys.argv[0]).name == SCRIPT else SCRIPT  # a notebook's kernel is a script too


@functools.cache
def launcher_words() -> list[str] | None:
    """What stood between `accelerate launch` and the script: another number of processes would be another run.

    None where no launcher is found. Read once, while the launcher lives: a worker that outlives it has another parent.
    """
    import psutil

    script = _script()
    try:
        words = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return None
    names = ("launch", "accelerate.commands.launch")
    starts = [place for place, word in enumerate(words) if word in names or word.endswith("accelerate-launch")]
    ends = [place for place, word in enumerate(words) if word == script]
    return words[starts[0] + 1 : ends[0]] if starts and ends and starts[0] < ends[0] else None
