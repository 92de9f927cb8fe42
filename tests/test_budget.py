import time

import pytest

from pipeline.budget import Budget

pytestmark = pytest.mark.unit


def test_what_is_inside_counts_once_and_everything_adds_up():
    budget = Budget()
    with budget.spend("step"):
        with budget.spend("data"):
            time.sleep(0.05)
        time.sleep(0.02)
    with pytest.raises(KeyError), budget.spend("step"):
        raise KeyError("counted all the same")
    time.sleep(0.03)
    seconds = budget.seconds
    assert set(seconds) == {"step", "data", "idle"}
    assert seconds["data"] >= 0.05
    assert 0.02 <= seconds["step"] < seconds["data"] + 0.02
    assert seconds["idle"] >= 0.03
    assert sum(seconds.values()) == pytest.approx(time.monotonic() - budget.started, abs=0.02)
