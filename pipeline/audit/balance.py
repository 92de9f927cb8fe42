"""Columns of categories: how often each value is there, and which always come together."""

import collections
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.audit.findings import Case, Cases

MOST_VALUES = 30  # of a column of categories; one with more is text
LEAST_EACH = 3.0  # rows for each value, in the mean
DOMINANT = 0.8  # of the rows
TOGETHER = 0.95  # of the rows with a value have the same value in another column too
LEAST_ROWS = 5  # with a value, before anything is said about what it comes with
Rows = Mapping[str, Mapping[str, Any]]  # cells by the picture's name


@dataclass(frozen=True)
class Column:
    """A column of categories in numbers."""

    name: str
    counts: dict[str, int]  # the commonest value first

    @property
    def evenness(self) -> float:
        """Its entropy as a share of the largest possible: 1 where all values are equally common (Pielou 1966)."""
        total = sum(self.counts.values())
        entropy = -sum(number / total * math.log(number / total) for number in self.counts.values())
        return entropy / math.log(len(self.counts))


def columns_of(rows: Rows, leave_out: frozenset[str]) -> list[Column]:
    """The columns that hold categories: few values, each several times. `rows` are cells by the picture's name."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    found = []
    for name in names:
        counts = collections.Counter(value for row in rows.values() if (value := value_of(row, name)) is not None)
        is_category = 2 <= len(counts) <= MOST_VALUES and counts.total() >= LEAST_EACH * len(counts)
        if name not in leave_out and is_category:
            found.append(Column(name, dict(counts.most_common())))
    return found


def value_of(row: Mapping[str, Any], column: str) -> str | None:
    """A cell as a category, on one line; None for what is none: nothing, a list, a fraction."""
    value = row.get(column)
    return " ".join(str(value).split()) if isinstance(value, str | int | bool) else None


def of_balance(rows: Rows, columns: list[Column]) -> Cases:
    """Values that outweigh the others, values that are rare, and pairs that cannot be told apart."""
    dominant, rare = list[Case](), list[Case]()
    for column in columns:
        total = sum(column.counts.values())
        value, most = next(iter(column.counts.items()))
        if most >= DOMINANT * total:
            dominant.append(Case(f"{column.name} is {value!r} in {most / total:.0%} of {total} rows"))
        rare += [
            Case(
                f"{column.name} is {value!r} once",
                tuple(name for name, row in rows.items() if value_of(row, column.name) == value),
            )
            for value, number in column.counts.items()
            if number == 1
        ]
    return {"unbalanced": dominant, "together": _together(rows, columns), "rare": rare}


def _together(rows: Rows, columns: list[Column]) -> list[Case]:
    names: dict[tuple[str, str], list[str]] = collections.defaultdict(list)  # of the pictures with a value
    for name, row in rows.items():
        for column in columns:
            if (value := value_of(row, column.name)) is not None:
                names[column.name, value].append(name)
    cases = []
    for first, second in itertools.permutations(columns, 2):
        for value, number in first.counts.items():
            own = names[first.name, value]
            others = collections.Counter(
                other for name in own if (other := value_of(rows[name], second.name)) is not None
            )
            if number < LEAST_ROWS or not others:
                continue
            other, times = others.most_common(1)[0]
            usual = second.counts[other] / sum(second.counts.values())
            if times >= TOGETHER * number and usual < DOMINANT:
                text = f"{first.name} {value!r} comes with {second.name} {other!r} in {times} of {number} rows"
                cases.append(Case(text, tuple(own)))
    return cases
