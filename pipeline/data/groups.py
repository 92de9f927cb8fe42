"""Groups of examples that count alike, however many there are of each: what a column says, as weights of the loss."""

import collections
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.data.manifest import Example
from pipeline.data.manifest import column as of_examples
from pipeline.errors import printable

MAX_NAMED = 8  # groups in a sentence
MOST = 10.0  # what an example of a rare group counts at most, beside one of a group of the mean size


@dataclass(frozen=True)
class Balance:
    """What examples count, by their group, and how many examples that is worth."""

    column: str
    counts: Mapping[str, int]
    weights: Mapping[str, float]  # their mean over the examples is 1
    capped: tuple[str, ...]  # groups too rare to count as much as the others

    @property
    def effective(self) -> float:
        """The effective sample size (Kish 1965): so many examples of equal weight say as much."""
        total = sum(self.weights[group] * number for group, number in self.counts.items())
        return total**2 / sum(self.weights[group] ** 2 * number for group, number in self.counts.items())

    def text(self) -> str:
        """For the plan and the page."""
        number = sum(self.counts.values())
        if len(set(self.counts.values())) == 1:
            several = f"its {len(self.counts)} groups are equally large" if len(self.counts) > 1 else "it has one group"
            return f"by {self.column}: {several}, so all {number} examples count alike anyway"
        parts = _few([f"{self.counts[group]} {group} x {weight:.3g}" for group, weight in self.weights.items()])
        rare = f"; {_few(self.capped)} too rare to count alike" if self.capped else ""
        return f"by {self.column}: {parts}; {number} examples say as much as {self.effective:.1f} alike{rare}"


def group_in(cells: Mapping[str, Any], column: str) -> str | None:
    """The group that a row's cell names, on one line; None where it is empty or no single value."""
    value = cells.get(column)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as parquet holds whole numbers where one is missing
    is_one = isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    return (printable(" ".join(str(value).split())) or None) if is_one else None


def _few(names: Sequence[str]) -> str:
    """Names in a sentence, of many the first."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def balance_of(examples: Sequence[Example], column: str) -> Balance:
    """Weights n / (k n_g) for each of k groups, no larger than MOST, scaled so that their mean is 1."""
    counts = collections.Counter(group for group in of_examples(examples, "group") if group is not None)
    number, share = sum(counts.values()), sum(counts.values()) / len(counts)
    wanted = {group: share / count for group, count in sorted(counts.items())}
    cut = {group: min(MOST, weight) for group, weight in wanted.items()}
    mean = sum(weight * counts[group] for group, weight in cut.items()) / number
    weights = {group: weight / mean for group, weight in cut.items()}
    return Balance(column, dict(sorted(counts.items())), weights, tuple(g for g in wanted if wanted[g] > MOST))
