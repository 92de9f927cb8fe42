"""Rows of metrics.jsonl with plain numbers, to be changed where a test wants it."""

from dataclasses import replace

from pipeline.evaluation.statistics import Interval
from pipeline.evaluation.validation import NoiseLevels, ValidationRow
from pipeline.training.tracking import StepRow

FLAT = Interval(0.0, -0.1, 0.1, 12)
LEVELS = NoiseLevels(
    t=(0.25, 0.75),
    held_out=(1.0, 1.0),
    held_out_base=(1.0, 1.0),
    held_out_change=(FLAT, FLAT),
    train_subset=(1.0, 1.0),
    train_subset_base=(1.0, 1.0),
    train_subset_change=(FLAT, FLAT),
)


def validation_row(change: float, half: float = 0.0, *, train_subset: float = 0.0, gain: float = 0.1) -> ValidationRow:
    """A measurement whose base has a loss of 1, so that changes are shares."""
    return ValidationRow(
        held_out_loss=1 + change,
        train_subset_loss=1 + train_subset,
        held_out_base=1.0,
        train_subset_base=1.0,
        held_out_change=Interval(change, change - half, change + half, 12),
        train_subset_change=Interval(train_subset, train_subset, train_subset, 12),
        condition_gain=gain,
        condition_gain_base=0.1,
        levels=LEVELS,
    )


def step_row(step: int, validation: ValidationRow | None = None, **changed: object) -> StepRow:
    row = StepRow(
        step=step, loss=1.0, learning_rate=1e-4, grad_norm=0.5, seconds=1.0, ids=("a", "b"), validation=validation
    )
    return replace(row, **changed)
