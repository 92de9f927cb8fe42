"""Charts: round ticks, the base at zero, nothing below -100 %."""

import re

import pytest

from pipeline.report import charts

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        (0.0, 0.613, (0.0, 0.2, 0.4, 0.6, 0.8)),
        (-0.13, 0.02, (-0.15, -0.1, -0.05, 0.0, 0.05)),
        (0, 420, (0.0, 100.0, 200.0, 300.0, 400.0, 500.0)),
        (3.0, 3.0, (3.0, 4.0)),
        (0.0, 0.0, (0.0, 0.2)),
    ],
)
def test_ticks_are_round_and_hold_everything(low, high, ticks):
    assert charts.round_ticks(low, high) == pytest.approx(ticks)


def labels(svg: str) -> list[str]:
    return re.findall(r'text-anchor="end">([+-][^<]*%)</text>', svg) + re.findall(r'text-anchor="end">(0)</text>', svg)


def test_a_change_is_never_below_a_loss_of_everything():
    svg = charts.changes({"held out": [-0.9, -0.97]}, [10, 20], 20, "loss")
    assert "-100%" in labels(svg)
    assert "0" in labels(svg)
    assert min(float(label.rstrip("%")) for label in labels(svg)) == -100
    assert max(float(label.rstrip("%")) for label in labels(svg)) == 0


def test_intervals_that_reach_further_are_cut_there():
    svg = charts.by_noise({"held out": [(-0.5, -1.4, 0.4)]}, [0.5], "loss")
    assert min(float(label.rstrip("%")) for label in labels(svg)) == -100


def test_steps_are_round_and_inside():
    svg = charts.curve(range(1, 421), [1.0] * 420, "loss")
    assert re.findall(r">step (\d+)<", svg) == ["100", "200", "300", "400"]
