"""What to do next, from the numbers of a run: each rule names its evidence and the flag it would change."""

import math
from collections.abc import Sequence
from typing import Any

from pipeline.evaluation.validation import ValidationRow
from pipeline.report.heldout import GAP
from pipeline.training.tracking import StepRow, validation_at

MIN_STEPS = 20  # of a run: fewer say nothing about how it was set up
CLIPPED_SHARE = 0.5  # of the steps whose gradient was scaled down
EARLY_SHARE, LATE_SHARE = 0.6, 0.95  # of the run, where the lowest held-out loss lies
HEARD_SHARE = 0.5  # of what the caption does for the base


def advice(rows: Sequence[StepRow], kept_step: int, run: dict[str, Any], seconds: dict[str, float]) -> list[str]:
    """Sentences for somebody who would train again; none where nothing stands out."""
    kept = validation_at(rows, kept_step)
    found = [
        *_length(rows, kept_step),
        *(_gap(kept) if kept else []),
        *_gradients(rows, run["max_grad_norm"]),
        *(_captions(kept) if kept else []),
        *_time(seconds),
    ]
    if not any(row.validation for row in rows):
        found.append(
            "Nothing was held out, so whether more or fewer steps would be better is unknown: with 40 images or more a "
            "tenth is held out by itself; of fewer, --validation_split 0.2 would say it."
        )
    return found


def _length(rows: Sequence[StepRow], kept_step: int) -> list[str]:
    measured = {row.step: row.validation for row in rows if row.validation is not None}
    if len(measured) < 3 or len(rows) < MIN_STEPS:
        return []
    last = max(measured)
    if kept_step <= EARLY_SHARE * last:
        return [f"The held-out loss was lowest at step {kept_step} of {last}: --max_train_steps {kept_step} would do."]
    before, after = list(measured.values())[-2:]
    if kept_step >= LATE_SHARE * last and before.held_out_loss - after.held_out_loss > 0.01 * after.held_out_base:
        return [f"The held-out loss still fell at the end: try --max_train_steps {2 * last}."]
    return []


def _gap(kept: ValidationRow) -> list[str]:
    gap = kept.held_out_share.value - kept.train_subset_share.value
    if gap <= GAP:
        return []
    return [
        f"On its own images the loss ended lower than on held-out ones by {gap:.0%} of the base's: "
        "more images, --random_flip or a lower --rank would narrow that."
    ]


def _gradients(rows: Sequence[StepRow], limit: float) -> list[str]:
    norms = [row.grad_norm for row in rows if math.isfinite(row.grad_norm)]
    clipped = sum(norm > limit for norm in norms)
    if len(norms) < MIN_STEPS or clipped <= CLIPPED_SHARE * len(norms):
        return []
    return [
        f"{clipped} of {len(norms)} gradients were longer than --max_grad_norm {limit:g} and were cut: "
        "that limit, not the learning rate, set the pace."
    ]


def _captions(kept: ValidationRow) -> list[str]:
    if kept.condition_gain_base <= 0 or kept.condition_gain > HEARD_SHARE * kept.condition_gain_base:
        return []
    return [
        "The caption helps the adapted model less than half as much as it helps the base: say in the captions what "
        "differs from picture to picture, and train for fewer steps."
    ]


def _time(seconds: dict[str, float]) -> list[str]:
    total = sum(seconds.values())
    waiting = seconds.get("data", 0.0)
    if total > 60 and waiting > 0.25 * total:
        return [f"{waiting / total:.0%} of the time went into waiting for data: raise --dataloader_num_workers."]
    return []
