"""Output at the terminal: one line at a time, from the main process alone."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any


def is_main_process() -> bool:
    """Whether this process writes and speaks; of several, the one with rank 0 does."""
    return os.environ.get("RANK", "0") == "0"


def tell(message: str) -> None:
    """A line on stderr, for the main process only, that leaves a progress bar whole."""
    if is_main_process():
        from tqdm import tqdm  # here, so that a wrong flag is answered without it

        tqdm.write(message, file=sys.stderr)


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
