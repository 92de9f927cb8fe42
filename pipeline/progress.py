"""How far something is, for people: a bar on a terminal, a plain line every so often in a log file."""

import sys
import time
from collections.abc import Callable

from pipeline.console import STDERR, clock, is_main_process, tell

LINE_EVERY_SECONDS = 15.0
BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"  # our own rest is in the last


class Progress:
    """How many of `total` units of work are done and how long the rest will take; the main process alone shows it."""

    def __init__(
        self,
        total: int | None,
        unit: str,
        *,
        first: int = 0,
        steadily: bool = False,
        left: Callable[[int], float | None] | None = None,
    ) -> None:
        """`first`: what earlier sessions did; `steadily`: work of minutes, whose first and last lines are shown too.

        `left`: the seconds that are left after so many units, where these are not alike or not all; None: unknown yet.
        """
        self._left = left
        self._total, self._unit, self._first, self._steadily = total, unit, first, steadily
        self._started = self._last_line = time.monotonic()
        self._bar = None
        if is_main_process() and sys.stderr is not None and sys.stderr.isatty():
            from tqdm import tqdm

            delay = 0.0 if steadily else 1.0
            shape = None if left is None else BAR
            self._bar = tqdm(
                total=total, initial=first, unit=unit, file=STDERR, delay=delay, leave=steadily, bar_format=shape
            )

    def update(self, done: int, *figures: str) -> None:
        """Tell that `done` units are done, and what there is to say of the last."""
        if self._bar is not None:
            left = _said(None if self._left is None else self._left(done))
            self._bar.set_postfix_str(", ".join([*figures, *left]), refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        is_end = self._steadily and done in (self._first + 1, self._total)
        if now - self._last_line >= LINE_EVERY_SECONDS or is_end:
            self._last_line = now
            pace = (now - self._started) / max(1, done - self._first)
            rest = "" if self._total is None else f"/{self._total}"
            left = _said(self._seconds_left(done, pace))
            tell("  ".join([f"{self._unit} {done}{rest}", *figures, f"{pace:.2f} s/{self._unit}", *left]))

    def _seconds_left(self, done: int, pace: float) -> float | None:
        if self._left is not None:
            return self._left(done)
        return None if self._total is None else pace * (self._total - done)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()


def _said(seconds: float | None) -> list[str]:
    return [] if seconds is None else [f"{clock(seconds)} left"]
