"""Whose loss is measured: held-out examples, and as many that the run trains on to compare them with."""

from collections.abc import Sequence

from pipeline.data.buckets import Bucket, only_shown
from pipeline.data.manifest import Example
from pipeline.evaluation.validation import MAX_EXAMPLES
from pipeline.run.preflight import RunData


def measured_examples(data: RunData, seen: Sequence[Bucket]) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The held-out ones, and the first of those that the steps show (`seen`), each once however often it counts."""
    if data.held_out is None:
        return (), ()
    held_out = tuple(data.held_out.examples[:MAX_EXAMPLES])
    compared: dict[str, Example] = {}
    for example in only_shown(data.shown.examples, seen):
        if not example.is_class:
            compared.setdefault(example.views_id, example)
        if len(compared) == len(held_out):
            break
    return held_out, tuple(compared.values())
