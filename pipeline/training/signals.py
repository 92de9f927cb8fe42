"""Being asked to stop: the loop finishes its step, saves, and leaves."""

import os
import signal
import threading
from types import FrameType, TracebackType

from pipeline.errors import EXIT_CTRL_C, EXIT_TERMINATED


def termination_signals() -> list[int]:
    """SIGTERM, and SIGHUP, which a terminal sends when it is closed, unless nohup has it ignored."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    return [signal.SIGTERM] + ([hangup] if hangup and signal.getsignal(hangup) != signal.SIG_IGN else [])


class StopSignal:
    """While entered, Ctrl-C, SIGTERM and SIGHUP set a flag instead of ending the process; a second Ctrl-C ends it.

    With `watch_parent`, a parent that has gone counts as SIGTERM: a launcher that is killed must
    not leave its worker training for nobody.
    """

    def __init__(self, *, watch_parent: bool) -> None:
        self._code: int | None = None
        self._parent = os.getppid() if watch_parent else None
        self._previous: dict[int, object] = {}

    @property
    def exit_code(self) -> int | None:
        """The exit code the process should end with, or None to go on."""
        if self._code is None and self._parent is not None and os.getppid() != self._parent:
            self._code = EXIT_TERMINATED
        return self._code

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # in others signals can be neither heard nor set
            for number in (signal.SIGINT, *termination_signals()):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal itself returned

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._code == EXIT_CTRL_C:
            raise KeyboardInterrupt
        self._code = EXIT_CTRL_C if number == signal.SIGINT else EXIT_TERMINATED
