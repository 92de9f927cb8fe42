"""What the page says of the class follows from the numbers, with what would change it."""

import pytest

from pipeline.evaluation.statistics import Interval
from pipeline.evaluation.validation import ClassRow
from pipeline.report import class_loss
from tests.rows import step_row

pytestmark = pytest.mark.unit


def row(change: float, half: float = 0.01) -> ClassRow:
    return ClassRow(loss=0.2 + change, base=0.2, change=Interval(change, change - half, change + half, 12))


def said(found: ClassRow, **run: object) -> str:
    return " ".join(class_loss.section([step_row(4, of_class=found)], 4, run)["words"])


def test_what_rose_by_more_than_chance_moved_and_the_rest_stayed():
    assert "rose by +25.0% [+20.0%, +30.0%] of the base's: the class moved" in said(row(0.05))
    for change in (0.005, -0.05):
        assert "the class stayed" in said(row(change))
    assert "the class stayed" in said(row(0.005))
    assert "do not say whether the class stayed" in said(row(0.06, half=0.07))  # +30 % [-5 %, +65 %]
    assert "12 pictures of the class ('a dog') that" in said(row(0.05), class_prompt="a dog")


def test_the_remedy_is_one_that_is_not_in_force():
    assert "--with_prior_preservation trains on such pictures too" in said(row(0.05))
    assert "raise --prior_loss_weight" in said(row(0.05), with_prior_preservation=True)
    assert "raise --preservation_weight" in said(row(0.05), preservation_weight=1.0)


def test_it_is_that_of_the_kept_step():
    rows = [step_row(2, of_class=row(-0.05)), step_row(3), step_row(4, of_class=row(0.05))]
    assert "stayed" in class_loss.section(rows, 2, {})["words"][0]
    assert "moved" in class_loss.section(rows, 4, {})["words"][0]
    assert "moved" in class_loss.section(rows, 3, {})["words"][0]  # not measured there: the last one
    assert class_loss.section([step_row(1)], 1, {}) is None
