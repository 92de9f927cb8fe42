"""What became of the class that a subject belongs to: the loss on pictures of it that were not trained on."""

from collections.abc import Sequence
from typing import Any

from pipeline.evaluation.validation import ClassRow
from pipeline.report import charts
from pipeline.training.tracking import StepRow

LITTLE = 0.1  # of the base's loss, that it may have risen by where the class stayed


def section(rows: Sequence[StepRow], kept_step: int, run: dict[str, Any]) -> dict[str, Any] | None:
    """What the page says of the class, from the rows of metrics.jsonl; None where it was not measured."""
    found = {row.step: row.of_class for row in rows if row.of_class is not None}
    if not found:
        return None
    kept = found.get(kept_step, found[max(found)])
    series = {"class": [row.loss / row.base - 1 for row in found.values()]}
    return {
        "words": words(kept, run),
        "chart": charts.changes(series, list(found), kept_step, "change of the loss on the class from the base model"),
        "n": kept.change.n,
    }


def words(row: ClassRow, run: dict[str, Any]) -> list[str]:
    """The measurement in sentences, with what would change it."""
    prompt = f" ({run['class_prompt']!r})" if "class_prompt" in run else ""
    pictures = f"{row.change.n} pictures of the class{prompt}"
    change = row.share.text("{:+.1%}")
    if row.change.low <= 0:
        means = (
            "the class stayed" if row.share.high <= LITTLE else "so few pictures do not say whether the class stayed"
        )
        said = f"the loss changed by {change} of the base's: {means}."
        return [f"On {pictures} that were not trained on, {said}"]
    kept_by = {"with_prior_preservation": "--prior_loss_weight", "preservation_weight": "--preservation_weight"}
    in_force = [flag for name, flag in kept_by.items() if run.get(name)]
    remedy = "--with_prior_preservation trains on such pictures too, --preservation_weight needs none"
    if in_force:
        remedy = f"raise {' or '.join(in_force)}, or train for fewer steps"
    said = f"the loss rose by {change} of the base's: the class moved with what was learnt. To keep it, {remedy}."
    return [f"On {pictures} that were not trained on, {said}"]
