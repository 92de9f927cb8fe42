import pytest

from pipeline import timer as timers
from pipeline.timer import PhaseTimer

pytestmark = pytest.mark.unit


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(timers, "time", self)

    def monotonic(self) -> float:
        return self.now

    def fail_after(self, seconds: float) -> None:
        self.now += seconds
        raise KeyError("counted all the same")


def test_what_is_inside_counts_once_and_everything_adds_up(monkeypatch):
    clock = Clock(monkeypatch)
    timer = PhaseTimer()
    with timer.section("step"):
        clock.now += 1
        with timer.section("data"):
            clock.now += 4
        clock.now += 2
    with pytest.raises(KeyError), timer.section("step"):
        clock.fail_after(16)
    clock.now += 8
    assert timer.seconds == {"step": 1 + 2 + 16, "data": 4, "idle": 8}
    assert sum(timer.seconds.values()) == clock.now - timer.started
