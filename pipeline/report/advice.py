"""What to do next, from the numbers of a run: each rule names its evidence and the flag it would change."""

from typing import Any

MIN_STEPS = 20  # of a run: fewer say nothing about how it was set up
CLIPPED_SHARE = 0.5  # of the steps whose gradient was scaled down
EARLY_SHARE, LATE_SHARE = 0.6, 0.95  # of the run, where the lowest held-out loss lies
HEARD_SHARE = 0.5  # of what the caption does for the base
GAP = 0.05  # of the base's loss: the part of the learning that does not carry over


def advice(rows: list[dict[str, Any]], kept_step: int, run: dict[str, Any], budget: dict[str, float]) -> list[str]:
    """Sentences for somebody who would train again; none where nothing stands out."""
    found = [
        *_length(rows, kept_step),
        *_gap(rows, kept_step),
        *_gradients(rows, run),
        *_captions(rows, kept_step),
        *_time(budget),
    ]
    if not any("validation" in row for row in rows):
        found.append(
            "Nothing was held out, so whether more or fewer steps would be better is unknown: with 40 images or more a "
            "tenth is held out by itself; of fewer, --validation_split 0.2 would say it."
        )
    return found


def _length(rows: list[dict[str, Any]], kept_step: int) -> list[str]:
    measured = [row for row in rows if "validation" in row]
    if len(measured) < 3 or len(rows) < MIN_STEPS:
        return []
    last = measured[-1]["step"]
    if kept_step <= EARLY_SHARE * last:
        return [f"The held-out loss was lowest at step {kept_step} of {last}: --max_train_steps {kept_step} would do."]
    losses = [row["validation"]["held_out_loss"] for row in measured]
    base = measured[-1]["validation"]["held_out_base"]
    if kept_step >= LATE_SHARE * last and losses[-2] - losses[-1] > 0.01 * base:
        return [f"The held-out loss still fell at the end: try --max_train_steps {2 * last}."]
    return []


def _gap(rows: list[dict[str, Any]], kept_step: int) -> list[str]:
    kept = next((row["validation"] for row in rows if row["step"] == kept_step and "validation" in row), None)
    if kept is None:
        return []
    change, probe = (kept[f"{which}_change"]["value"] / kept[f"{which}_base"] for which in ("held_out", "probe"))
    if change - probe <= GAP:
        return []
    return [
        f"On its own images the loss fell by {change - probe:.0%} of the base's more than on held-out ones: more "
        "images, --random_flip or a lower --rank would narrow that."
    ]


def _gradients(rows: list[dict[str, Any]], run: dict[str, Any]) -> list[str]:
    norms = [row["grad_norm"] for row in rows if isinstance(row.get("grad_norm"), float)]
    clipped = sum(norm > run["max_grad_norm"] for norm in norms)
    if len(norms) < MIN_STEPS or clipped <= CLIPPED_SHARE * len(norms):
        return []
    return [
        f"{clipped} of {len(norms)} gradients were longer than --max_grad_norm {run['max_grad_norm']:g} and were cut: "
        "that limit, not the learning rate, set the pace."
    ]


def _captions(rows: list[dict[str, Any]], kept_step: int) -> list[str]:
    kept = next((row["validation"] for row in rows if row["step"] == kept_step and "validation" in row), None)
    if kept is None or kept["condition_gain_base"] <= 0:
        return []
    if kept["condition_gain"] > HEARD_SHARE * kept["condition_gain_base"]:
        return []
    return [
        "The caption helps the adapted model less than half as much as it helps the base: say in the captions what "
        "differs from picture to picture, and train for fewer steps."
    ]


def _time(budget: dict[str, float]) -> list[str]:
    total = sum(budget.values())
    waiting = budget.get("data", 0.0)
    if total > 60 and waiting > 0.25 * total:
        return [f"{waiting / total:.0%} of the time went into waiting for data: raise --dataloader_num_workers."]
    return []
