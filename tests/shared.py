"""What is made once and read by many tests: in the folder that all processes of one pytest session have in common."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


class Shared:
    """Makes a folder the first time it is asked for, whichever process asks. Nobody may change what is in it."""

    def __init__(self, base: Path) -> None:
        self._base = base

    @classmethod
    def of(cls, factory: pytest.TempPathFactory) -> "Shared":
        own = factory.getbasetemp()
        base = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
        base.mkdir(exist_ok=True)
        return cls(base)

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder of this name; `make` fills it, in a place that stays the same."""
        folder, done = self._base / name, self._base / f"{name}.done"
        with (self._base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                done.touch()
        return folder
