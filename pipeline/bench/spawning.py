"""Processes whose cost is what the system says of them: CPU seconds and memory of all that they start, too."""

import os
from collections.abc import Mapping
from pathlib import Path


def spawn(words: list[str], folder: Path, environment: Mapping[str, str] | None = None) -> tuple[float, int]:
    """CPU seconds and peak memory in bytes of a process on one thread; what it says goes to FOLDER/log.

    The system counts the memory of the process that starts it too, so the peak is at least what this one takes. Raises
    RuntimeError for a program that fails.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    told = {**os.environ, **threads, **(environment or {})}
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    pid = os.posix_spawn(words[0], words, told, file_actions=actions)
    _, code, used = os.wait4(pid, 0)
    os.close(log)
    if code:
        said = (folder / "log").read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(words[:3])} failed:\n{said}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def with_kept_bytecode(folder: Path) -> dict[str, str]:
    """What lets processes keep compiled Python in a folder: without it each import costs several times as much."""
    return {"PYTHONPYCACHEPREFIX": str(folder), "PYTHONDONTWRITEBYTECODE": ""}
