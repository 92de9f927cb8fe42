"""The held-out loss on the page: the curve of its change, a table over noise levels, and what it means in words."""

from collections.abc import Sequence
from typing import Any

from pipeline.evaluation.statistics import Interval
from pipeline.evaluation.validation import ValidationRow
from pipeline.report import charts
from pipeline.training.tracking import StepRow, validation_at

GAP = 0.05  # of the base's loss: a part of the learning that does not carry over


def section(rows: Sequence[StepRow], kept_step: int) -> dict[str, Any] | None:
    """What the page says of the held-out loss, from the rows of metrics.jsonl; None where nothing was held out."""
    found = {row.step: row.validation for row in rows if row.validation is not None}
    if not found:
        return None
    series = {
        "held out": [row.held_out_loss / row.held_out_base - 1 for row in found.values()],
        "training examples": [row.train_subset_loss / row.train_subset_base - 1 for row in found.values()],
    }
    last = max(found)
    kept = validation_at(rows, kept_step) or found[last]
    levels = kept.levels
    by_noise = {
        "held_out": _shares(levels.held_out_change, levels.held_out_base),
        "train_subset": _shares(levels.train_subset_change, levels.train_subset_base),
    }
    return {
        "chart": charts.changes(series, list(found), kept_step, "change of the loss from the base model"),
        "noise_chart": charts.by_noise(by_noise, levels.t, "change of the loss from the base model, by noise level"),
        "levels": losses_by_level(kept),
        "words": words(kept, kept_step, last),
        "n": kept.held_out_change.n,
    }


def losses_by_level(row: ValidationRow) -> list[dict[str, str]]:
    """Loss at each noise level, base beside adapted, for held-out and training examples."""
    found = row.levels
    return [
        {
            "noise": f"{t:.0%}",
            "held_out": _pair(found.held_out_base[i], found.held_out[i]),
            "train_subset": _pair(found.train_subset_base[i], found.train_subset[i]),
        }
        for i, t in enumerate(found.t)
    ]


def _shares(changes: Sequence[Interval], base: Sequence[float]) -> list[tuple[float, float, float]]:
    """The change of the loss at each noise level with its interval, as shares of the base's loss there."""
    shares = [change.over(value) for change, value in zip(changes, base, strict=True)]
    return [(share.value, share.low, share.high) for share in shares]


def words(row: ValidationRow, kept_step: int, last_step: int) -> list[str]:
    """The measurement in sentences, each with the number it rests on."""
    change = row.held_out_share
    shown = change.text("{:+.1%}")
    sentences = []
    if change.high < 0:
        sentences.append(
            f"On images it was never trained on, the loss changed by {shown} of the base's: it generalises."
        )
    elif change.low > 0:
        sentences.append(
            f"On images it was never trained on, the loss rose by {shown} of the base's: it has learnt its training "
            "images, not what they have in common. Train for fewer steps, at a lower rate or on more images."
        )
    else:
        sentences.append(
            f"On images it was never trained on, the change of the loss, {shown} of the base's, may be chance."
        )
    gap = change.value - row.train_subset_share.value
    if gap > GAP:
        sentences.append(
            f"On its training images the loss ended lower by {gap:.1%} of the base's: that part of its learning does "
            "not carry over."
        )
    gain, before = row.condition_gain, row.condition_gain_base
    sentences.append(
        f"Knowing the caption {_moved(gain)} its loss on them and {_moved(before)} the base's."
        + (" It listens to the caption less than the base does." if before > 0 and gain < 0.5 * before else "")
    )
    if kept_step < last_step:
        sentences.append(f"The lowest loss was at step {kept_step} of {last_step}; those weights were exported.")
    return sentences


def _moved(gain: float) -> str:
    return f"{'lowers' if gain >= 0 else 'raises'} (by {abs(gain):.4f})"


def _pair(base: float, adapted: float) -> str:
    return f"{base:.4f} → {adapted:.4f} ({adapted / base - 1:+.1%})"
