"""What the page says of the held-out loss follows from the numbers."""

import pytest

from pipeline.report import heldout

pytestmark = pytest.mark.unit


def row(step: int, change: float, half: float, probe: float = 0.0, gain: float = 0.1) -> dict:
    curves: dict = {name: [1.0, 1.0] for name in ("held_out", "held_out_base", "probe", "probe_base")}
    curves |= {f"{name}_change": [{"value": 0.0, "low": -0.1, "high": 0.1}] * 2 for name in ("held_out", "probe")}
    return {
        "step": step,
        "validation": {
            "held_out_loss": 1 + change, "probe_loss": 1 + probe, "held_out_base": 1.0, "probe_base": 1.0,
            "held_out_change": {"value": change, "low": change - half, "high": change + half, "n": 12},
            "probe_change": {"value": probe, "low": probe, "high": probe, "n": 12},
            "condition_gain": gain, "condition_gain_base": 0.1, "levels": {"t": [0.25, 0.75], **curves},
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (row(4, -0.3, 0.1), "it generalises"),
        (row(4, 0.3, 0.1), "learnt its training images"),
        (row(4, 0.05, 0.1), "may be chance"),
        (row(4, -0.1, 0.05, probe=-0.4), "does not carry over"),
        (row(4, -0.1, 0.05, gain=0.01), "listens to the caption less"),
        (row(4, -0.1, 0.05, gain=-0.01), "raises (by 0.0100) its loss"),
    ],
)
def test_the_sentences(given, said):
    assert said in " ".join(heldout.section([given], 4)["words"])


def test_the_kept_step_is_marked_and_named():
    found = heldout.section([row(2, -0.3, 0.1), {"step": 3, "loss": 1.0}, row(4, -0.2, 0.1)], 2)
    assert "The lowest loss was at step 2 of 4" in " ".join(found["words"])
    assert found["chart"].count("<circle") == 6
    assert found["noise_chart"].count("<circle") == 4
    assert found["noise_chart"].count("bar-") == 4
    assert heldout.section([{"step": 1, "loss": 1.0}], 1) is None
