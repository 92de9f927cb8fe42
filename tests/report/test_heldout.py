"""What the page says of the held-out loss follows from the numbers."""

import pytest

from pipeline.report import heldout
from tests.rows import step_row, validation_row

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (validation_row(-0.3, 0.1), "it generalises"),
        (validation_row(0.3, 0.1), "learnt its training images"),
        (validation_row(0.05, 0.1), "may be chance"),
        (validation_row(-0.1, 0.05, train_subset=-0.4), "does not carry over"),
        (validation_row(-0.1, 0.05, gain=0.01), "listens to the caption less"),
        (validation_row(-0.1, 0.05, gain=-0.01), "raises (by 0.0100) its loss"),
        (validation_row(-0.1, float("inf")), "-10.0% (no interval)"),
    ],
)
def test_the_sentences(found, said):
    assert said in " ".join(heldout.section([step_row(4, found)], 4)["words"])


def test_the_kept_step_is_marked_and_named():
    rows = [step_row(2, validation_row(-0.3, 0.1)), step_row(3), step_row(4, validation_row(-0.2, 0.1))]
    found = heldout.section(rows, 2)
    assert "The lowest loss was at step 2 of 4" in " ".join(found["words"])
    assert found["chart"].count("<circle") == 6
    assert found["noise_chart"].count("<circle") == 4
    assert found["noise_chart"].count("bar-") == 4
    assert heldout.section([step_row(1)], 1) is None
