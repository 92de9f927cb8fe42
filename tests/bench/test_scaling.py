"""`bench scaling`: what several processes do is told against one of them."""

import pytest

from pipeline.bench import scaling
from pipeline.bench.shapes import SHAPES

pytestmark = pytest.mark.unit
BATCH = SHAPES["starter"].batch


@pytest.mark.parametrize("num_cards", [0, 2])
def test_efficiency_is_of_what_one_process_does(num_cards, monkeypatch):
    """Two processes whose steps take a quarter longer do 1.6 times the work, each 0.8 of it."""
    monkeypatch.setattr(scaling, "count_cards", lambda: num_cards)
    monkeypatch.setattr(scaling, "run", lambda number, cards, *, toy: ((1 + 0.25 * (number - 1)), 10.0 * number, 10**9))
    monkeypatch.setattr(scaling.results, "machine_name", lambda device: device)
    found = scaling.compare((1, 2, 4), "", toy=True)
    one, two, four = found.rows
    assert (one.found["samples_per_s"], one.found["efficiency"]) == ((BATCH,), (1.0,))
    assert two.found["samples_per_s"] == (2 * BATCH / 1.25,)
    assert two.found["efficiency"][0] == pytest.approx(0.8)
    assert two.found["cpu_s"] == (20.0,)
    assert (four.found == {}, "2 GPU(s) here" in four.note) == ((True, True) if num_cards else (False, False))


@pytest.mark.slow
def test_the_launcher_starts_as_many_as_are_asked_for():
    one, two = scaling.compare((1, 2), "", toy=True).rows
    assert one.found["samples_per_s"][0] > 0
    assert two.found["cpu_s"][0] > 1.3 * one.found["cpu_s"][0]
