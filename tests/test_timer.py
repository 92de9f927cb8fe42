import time

import pytest

from pipeline.timer import PhaseTimer

pytestmark = pytest.mark.unit


def test_what_is_inside_counts_once_and_everything_adds_up():
    timer = PhaseTimer()
    with timer.section("step"):
        with timer.section("data"):
            time.sleep(0.05)
        time.sleep(0.02)
    with pytest.raises(KeyError), timer.section("step"):
        raise KeyError("counted all the same")
    time.sleep(0.03)
    seconds = timer.seconds
    assert set(seconds) == {"step", "data", "idle"}
    assert seconds["data"] >= 0.05
    assert 0.02 <= seconds["step"] < seconds["data"] + 0.02
    assert seconds["idle"] >= 0.03
    assert sum(seconds.values()) == pytest.approx(time.monotonic() - timer.started, abs=0.02)
