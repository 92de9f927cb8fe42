"""The held-out loss on the page: the curve of its change, a table over noise levels, and what it means in words."""

from typing import Any

from pipeline.report import charts


def section(rows: list[dict[str, Any]], kept_step: int) -> dict[str, Any] | None:
    """What the page says of the held-out loss, from the rows of metrics.jsonl; None where nothing was held out."""
    measured = [row for row in rows if "validation" in row]
    if not measured:
        return None
    found = [row["validation"] for row in measured]
    series = {
        "held out": [row["held_out_loss"] / row["held_out_base"] - 1 for row in found],
        "training examples": [row["probe_loss"] / row["probe_base"] - 1 for row in found],
    }
    kept = next((row["validation"] for row in measured if row["step"] == kept_step), found[-1])
    return {
        "chart": charts.changes(
            series, [row["step"] for row in measured], kept_step, "change of the loss from the base model"
        ),
        "noise_chart": charts.by_noise(
            {which: _shares(kept, which) for which in ("held_out", "probe")},
            kept["levels"]["t"],
            "change of the loss from the base model, by noise level",
        ),
        "levels": levels(kept),
        "words": words(kept, kept_step, measured[-1]["step"]),
        "n": kept["held_out_change"]["n"],
    }


def levels(row: dict[str, Any]) -> list[dict[str, str]]:
    """Loss at each noise level, base beside tuned, for held-out and training examples."""
    found = row["levels"]
    return [
        {
            "noise": f"{t:.0%}",
            "held_out": _pair(found["held_out_base"][i], found["held_out"][i]),
            "probe": _pair(found["probe_base"][i], found["probe"][i]),
        }
        for i, t in enumerate(found["t"])
    ]


def _shares(row: dict[str, Any], which: str) -> list[tuple[float, float, float]]:
    """The change of the loss at each noise level with its interval, as shares of the base's loss there."""
    found = row["levels"]
    pairs = zip(found[f"{which}_change"], found[f"{which}_base"], strict=True)
    return [(change["value"] / base, change["low"] / base, change["high"] / base) for change, base in pairs]


def words(row: dict[str, Any], kept_step: int, last_step: int) -> list[str]:
    """The measurement in sentences, each with the number it rests on."""
    change, base = row["held_out_change"], row["held_out_base"]
    ends = f"{change['value'] / base:+.1%} [{change['low'] / base:+.1%}, {change['high'] / base:+.1%}]"
    sentences = []
    if change["high"] < 0:
        sentences.append(
            f"On images it was never trained on, the loss changed by {ends} of the base's: it generalises."
        )
    elif change["low"] > 0:
        sentences.append(
            f"On images it was never trained on, the loss rose by {ends} of the base's: it has learnt its training "
            "images, not what they have in common. Train for fewer steps, at a lower rate or on more images."
        )
    else:
        sentences.append(
            f"On images it was never trained on, the change of the loss, {ends} of the base's, may be chance."
        )
    gap = row["probe_change"]["value"] / row["probe_base"] - change["value"] / base
    if gap < -0.05:
        sentences.append(
            f"On its training images the loss fell by {-gap:.1%} of the base's more: that part of its learning does "
            "not carry over."
        )
    gain, before = row["condition_gain"], row["condition_gain_base"]
    sentences.append(
        f"Knowing the caption {_moved(gain)} its loss on them and {_moved(before)} the base's."
        + (" It listens to the caption less than the base does." if before > 0 and gain < 0.5 * before else "")
    )
    if kept_step < last_step:
        sentences.append(f"The lowest loss was at step {kept_step} of {last_step}; those weights are handed over.")
    return sentences


def _moved(gain: float) -> str:
    return f"{'lowers' if gain >= 0 else 'raises'} (by {abs(gain):.4f})"


def _pair(base: float, tuned: float) -> str:
    return f"{base:.4f} → {tuned:.4f} ({tuned / base - 1:+.1%})"
