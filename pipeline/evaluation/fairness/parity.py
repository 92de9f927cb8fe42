"""What is measured of each group, the worst of them and the gap, with intervals that hold for all groups at once.

The interval of each of k groups has a confidence of 1 - 0.05 / k (Bonferroni: Dunn 1961), so that all k hold together
95 times in 100. The gap is the largest difference between two groups. It is chosen after a look at the values, so its
interval is made from intervals of all k (k - 1) / 2 differences that hold together (Bonferroni as well; Hochberg and
Tamhane 1987, chapter 2): where each difference lies within its own, the largest lies between the largest of their lower
and the largest of their upper ends.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.evaluation.statistics import NO_WIDTH, Interval, as_share, difference, mean_of, means_by, share

Values = Sequence[Float[Tensor, "..."]]  # of each group, one for each caption or block
Pairs = Mapping[tuple[int, int], Interval]
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Side:
    """What was measured of each group on one set of pictures, or how it changed between two."""

    groups: dict[str, Interval]  # which hold together
    best: str
    worst: str
    gap: Interval  # by how much the worst is worse than the best; of a change, how much larger that became


def simultaneous(count: int) -> float:
    """The confidence of each of so many intervals that hold together 95 times in 100."""
    return 1 - ALPHA / count


class Measured(ABC):
    """What was measured of several groups."""

    @abstractmethod
    def of(self, group: int, confidence: float) -> Interval:
        """That of one group."""

    def between(self, first: int, second: int, confidence: float) -> Interval:
        """By how much it is more for one group than for another."""
        return difference(self.of(first, confidence), self.of(second, confidence))


class Independent(Measured):
    """Values of whole groups, which share no picture."""

    def __init__(self, interval: Callable[[int, float], Interval]) -> None:
        self._interval = functools.cache(interval)

    def of(self, group: int, confidence: float) -> Interval:
        """That of one group."""
        return self._interval(group, confidence)


class Means(Measured):
    """Means over captions; where groups are paired, the i-th of one differs from the i-th of another in that alone."""

    def __init__(self, values: Values, *, is_share: bool, is_paired: bool) -> None:
        self.values, self.is_share, self.is_paired = values, is_share, is_paired

    def of(self, group: int, confidence: float) -> Interval:
        """Student's interval; of values that are 0 or 1 Wilson's."""
        values = self.values[group]
        if self.is_share and bool(((values == 0) | (values == 1)).all()):
            return share(int(values.sum()), len(values), confidence)
        found = mean_of(values, confidence)
        return as_share(found, len(values), confidence) if self.is_share else found

    def between(self, first: int, second: int, confidence: float) -> Interval:
        """Student's paired interval where groups are paired; not of shares that differ alike in all pairs."""
        if self.is_paired:
            found = mean_of(self.values[first].double() - self.values[second].double(), confidence)
            if not self.is_share:
                return found
            if found.high - found.low > NO_WIDTH:
                return Interval(found.value, max(found.low, -1.0), min(found.high, 1.0), found.n)
        return super().between(first, second, confidence)


class Changes(Measured):
    """How means changed from one set of pictures to another, of the same captions and seeds."""

    def __init__(self, now: Means, before: Means) -> None:
        self._now, self._before = now, before

    def of(self, group: int, confidence: float) -> Interval:
        """Student's paired interval."""
        both = Means([self._now.values[group], self._before.values[group]], is_share=self._now.is_share, is_paired=True)
        return both.between(0, 1, confidence)

    def between(self, first: int, second: int, confidence: float) -> Interval:
        """The same of the difference of two groups, where these are paired too."""
        changes = [now.double() - old.double() for now, old in zip(self._now.values, self._before.values, strict=True)]
        if self._now.is_paired:
            found = mean_of(changes[first] - changes[second], confidence)
            if found.high - found.low > NO_WIDTH or not self._now.is_share:
                return found
        return super().between(first, second, confidence)


def by_group(
    values: Float[Tensor, " n"], groups: Int[Tensor, " n"], blocks: Int[Tensor, " n"], *, is_paired: bool
) -> list[Float[Tensor, "..."]]:
    """The values of each group's blocks, pictures of one block together; those that say nothing (NaN) are left out.

    Where groups are paired a block is left out of all of them.
    """
    finite = values.isfinite()
    if is_paired:
        silent = blocks[~finite]
        finite = ~torch.isin(blocks, silent)
    kept = [finite & (groups == group) for group in range(int(groups.max()) + 1)]
    return [means_by(values[some], blocks[some]) for some in kept]


def side(measured: Measured, names: Sequence[str], *, lower_is_better: bool = False) -> Side:
    """All groups, the worst, the best and the gap between these two."""
    groups = {name: measured.of(number, simultaneous(len(names))) for number, name in enumerate(names)}
    best, worst = _extremes(groups, lower_is_better=lower_is_better)
    gap = _largest(_pairs(measured, len(names), 1, lower_is_better=lower_is_better))
    return Side(groups=groups, best=best, worst=worst, gap=gap)


def change(
    now: Measured, before: Measured, changed: Measured, names: Sequence[str], *, lower_is_better: bool = False
) -> Side:
    """How each group changed, and how the gap did.

    The change of the gap lies between the smallest lower end of the changes of those pairs that may have been the gap
    before, and the largest upper end of those that may be it now; and it is at least the lower end of the gap now less
    the upper end of that before, and at most the other way round. The intervals of all pairs, before, now and of
    their changes, hold together, and so do both bounds.
    """
    groups = {name: changed.of(number, simultaneous(len(names))) for number, name in enumerate(names)}
    best, worst = _extremes(groups, lower_is_better=lower_is_better)
    found, old, moved = (_pairs(one, len(names), 3, lower_is_better=lower_is_better) for one in (now, before, changed))
    gap, gap_before = _largest(found), _largest(old)
    low = max(min(moved[pair].low for pair in _likely(old)), gap.low - gap_before.high)
    high = min(max(moved[pair].high for pair in _likely(found)), gap.high - gap_before.low)
    change = Interval(gap.value - gap_before.value, low, high, min(one.n for one in groups.values()))
    return Side(groups=groups, best=best, worst=worst, gap=change)


def _extremes(groups: Mapping[str, Interval], *, lower_is_better: bool) -> tuple[str, str]:
    order = sorted(groups, key=lambda name: groups[name].value, reverse=not lower_is_better)
    return order[0], order[-1]


def _pairs(measured: Measured, count: int, families: int, *, lower_is_better: bool) -> Pairs:
    """By how much each group is better than each other, with intervals that hold together in so many families."""
    confidence = simultaneous(families * count * (count - 1) // 2)
    found: dict[tuple[int, int], Interval] = {}
    for first in range(count):
        for second in range(first):
            one = measured.between(first, second, confidence)
            turned = Interval(-one.value, -one.high, -one.low, one.n)
            better, worse = (turned, one) if lower_is_better else (one, turned)
            found |= {(first, second): better, (second, first): worse}
    return found


def _largest(pairs: Pairs) -> Interval:
    """The largest of all differences; it is not below 0, as each is there in both directions."""
    every = pairs.values()
    low, high = max(one.low for one in every), max(one.high for one in every)
    return Interval(max(one.value for one in every), max(low, 0.0), high, min(one.n for one in every))


def _likely(pairs: Pairs) -> list[tuple[int, int]]:
    """The pairs that may be the largest."""
    surely = max(one.low for one in pairs.values())
    return [pair for pair, one in pairs.items() if one.high >= surely]
