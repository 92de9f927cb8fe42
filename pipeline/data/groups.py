"""Groups of examples that count alike, however many there are of each: what a column says, as weights of the loss."""

import collections
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.data.manifest import Example
from pipeline.data.manifest import column as of_examples
from pipeline.errors import DataError, printable

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
        """The effective sample size: so many examples of equal weight say as much."""
        counts: collections.Counter[float] = collections.Counter()
        for group, number in self.counts.items():
            counts[self.weights[group]] += number
        return effective_size(counts)

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


def weight_in(cells: Mapping[str, Any], column: str) -> float | None:
    """The number above 0 that a row's cell holds, as a number or as text; None for anything else."""
    value = cells.get(column)
    try:
        weight = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError):
        return None
    return weight if 0 < weight < math.inf else None


def said_by(
    description: Mapping[str, Any] | str | None,
    *,
    balance: str | None,
    weight: str | None,
    values: Mapping[str, float] | None,
) -> tuple[dict[str, Any], list[str]]:
    """What a row's cells say of an example's group and of what its loss counts, and what they lack.

    The column `weight` holds numbers, or words that count what `values` says, and 1 where it says nothing.
    """
    cells = description if isinstance(description, Mapping) else {}
    said: dict[str, Any] = {}
    problems = []
    if balance is not None:
        said["group"] = group_in(cells, balance)
        if said["group"] is None:
            what = _lacks(cells, balance, "is empty or no single value")
            problems.append(f"{what}, and --balance needs it")
    if weight is not None and values is not None:
        said["weighed_as"] = group_in(cells, weight)
        said["loss_weight"] = values.get(said["weighed_as"], 1.0)
        if said["weighed_as"] is None:
            problems.append(f"{_lacks(cells, weight, 'is empty or no single value')}, and --weight_values needs it")
    elif weight is not None:
        said["loss_weight"] = weight_in(cells, weight)
        if said["loss_weight"] is None:
            said["loss_weight"] = math.nan
            what = _lacks(cells, weight, f"is {cells.get(weight)!r}, no number above 0")
            problems.append(f"{what}, and --weight_column needs one (--weight_values weighs words)")
    return said, problems


def _lacks(cells: Mapping[str, Any], column: str, otherwise: str) -> str:
    """What is wrong with a cell: there is none, or it is otherwise."""
    there = ", ".join(sorted(cells)) or "no columns"
    return f"its {column!r} {otherwise}" if column in cells else f"no {column!r} (there is {there})"


def effective_size(counts: Mapping[float, int]) -> float:
    """So many examples of equal weight say as much as these, of each weight so many (Kish 1965)."""
    largest = max(counts)  # of which the others are shares: a square of it may be no number
    shares = [(weight / largest, number) for weight, number in counts.items()]
    return sum(share * number for share, number in shares) ** 2 / sum(share**2 * number for share, number in shares)


def require_values(examples: Sequence[Example], column: str, values: Mapping[str, float]) -> None:
    """Raise DataError for values that no example has."""
    counts = collections.Counter(value for value in of_examples(examples, "weighed_as") if value is not None)
    unknown = [value for value in values if value not in counts]
    if unknown:
        there = _few([f"{value} ({number} x)" for value, number in sorted(counts.items())])
        names = " or ".join(map(repr, unknown))
        raise DataError(f"--weight_values: no example has {names} in the column {column!r}; there is {there}.")


def weights_text(column: str, examples: Sequence[Example]) -> str:
    """What a column of weights comes to, for the plan."""
    weights: list[float] = of_examples(examples, "loss_weight")
    text = f"by {column}: {min(weights):.3g} to {max(weights):.3g}, {sum(weights) / len(weights):.3g} on average"
    values = zip(of_examples(examples, "weighed_as"), weights, strict=True)
    if counts := collections.Counter((value, weight) for value, weight in values if value is not None):
        parts = [f"{number} {value} x {weight:.3g}" for (value, weight), number in sorted(counts.items())]
        text = f"by {column}: {_few(parts)}"
    worth = effective_size(collections.Counter(weights))
    return f"{text}; {len(weights)} examples say as much as {worth:.1f} alike"


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
