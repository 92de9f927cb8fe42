"""Where the time of a run goes."""

import contextlib
import time
from collections.abc import Iterator


class PhaseTimer:
    """Seconds by what they were spent on. What is spent inside something else counts for the inner one alone."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self._seconds: dict[str, float] = {}
        self._inner = [0.0]  # per open section, the seconds its inner ones took

    @contextlib.contextmanager
    def section(self, what: str) -> Iterator[None]:
        """Count the time until the block ends, however it ends."""
        started = time.monotonic()
        self._inner.append(0.0)
        try:
            yield
        finally:
            whole = time.monotonic() - started
            self._seconds[what] = self._seconds.get(what, 0.0) + whole - self._inner.pop()
            self._inner[-1] += whole

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by purpose, and as 'idle' what is left of the time since the start: imports, loading, waiting."""
        idle = time.monotonic() - self.started - sum(self._seconds.values())
        return {**self._seconds, "idle": max(0.0, idle)}

    def seconds_of(self, *what: str) -> float:
        """Seconds spent on some purposes so far, sections that are still open left out."""
        return sum(self._seconds.get(name, 0.0) for name in what)
