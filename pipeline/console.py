"""What is said at the terminal: one line at a time, by the main process alone."""

import logging
import os
import sys

from tqdm import tqdm


def is_main_process() -> bool:
    """Whether this process writes and speaks; of several, the one with rank 0 does."""
    return os.environ.get("RANK", "0") == "0"


def tell(message: str) -> None:
    """A line on stderr, for the main process only, that leaves a progress bar whole."""
    if is_main_process():
        tqdm.write(message, file=sys.stderr)


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def quieten_libraries() -> None:
    """Let diffusers, transformers and bitsandbytes report errors only: we check what their warnings are about."""
    import diffusers
    import transformers

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it wherever it is installed
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
