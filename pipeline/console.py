"""Output at the terminal: the only place that writes to it, so that nothing that goes wrong there ends a run."""

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any


def is_main_process() -> bool:
    """Whether this process writes and speaks; of several, the one with rank 0 does."""
    return os.environ.get("RANK", "0") == "0"


def write(text: str, stream: Any) -> OSError | None:
    """Text to a stream, stdout or stderr, at once; dropped where nobody reads any more. Returns what went wrong.

    The reader of a pipe may be gone, the terminal closed, the disk under a log file full, the descriptor never open:
    then all that is still written there goes nowhere.
    """
    if stream is None:  # closed before Python started
        return None
    try:
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        return error if isinstance(error, OSError) else None
    return None


class _Stderr:
    """sys.stderr, whichever that is at the moment, for those who want a file."""

    def write(self, text: str) -> None:
        write(text, sys.stderr)

    def flush(self) -> None:
        write("", sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


STDERR: Any = _Stderr()


def tell(message: str) -> None:
    """A line on stderr, for the main process only, that leaves a progress bar whole."""
    if is_main_process():
        from tqdm import tqdm  # here, so that a wrong flag is answered without it

        tqdm.write(message, file=STDERR)


def say(line: str) -> None:
    """A line on stdout: what a verb of `python -m pipeline` answers.

    Raises OSError where that cannot be kept, on a full disk, for what answers nothing has failed. A reader that ends
    early is none: it has what it wanted.
    """
    error = write(f"{line}\n", sys.stdout)
    if error is not None and error.errno != errno.EPIPE:
        raise OSError(error.errno, error.strerror, "standard output")


def say_error(sentence: str) -> None:
    """The last sentence, on stderr."""
    write("", sys.stdout)
    write(f"{sentence}\n", sys.stderr)


def show_traceback() -> None:
    """Where the error at hand was raised, on stderr."""
    write(traceback.format_exc(), sys.stderr)


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def columns(rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """Rows of equally many cells as lines, the cells below one another."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [f"{indent}{line}".rstrip() for line in lines]


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Let diffusers and transformers report errors only for a while: we check what their warnings are about."""
    import logging

    import diffusers
    import transformers

    noisy: list[Any] = [diffusers.utils.logging, transformers.utils.logging]
    before = [(library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in noisy]
    bitsandbytes = logging.getLogger("bitsandbytes")  # peft imports it wherever it is installed
    level = bitsandbytes.level
    bitsandbytes.setLevel(logging.ERROR)
    for library in noisy:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        bitsandbytes.setLevel(level)
        for library, verbosity, had_bars in before:
            library.set_verbosity(verbosity)
            if had_bars:
                library.enable_progress_bar()
