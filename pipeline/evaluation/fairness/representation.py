"""Which groups are drawn where none is asked for: their shares, and how far these are from what is wanted."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.evaluation.fairness.parity import simultaneous
from pipeline.evaluation.statistics import Interval, difference, share


@dataclass(frozen=True, kw_only=True)
class Shares:
    """What a reader named in pictures drawn from neutral prompts."""

    counts: dict[str, int]  # of each group
    num_unread: int  # pictures in which it named none of them, or several
    groups: dict[str, Interval]  # as shares of those read, by intervals that hold together; {} where none was read
    distance: Interval | None  # total variation to the target; None where none was read


@dataclass(frozen=True, kw_only=True)
class Representation:
    """The shares with and without the adapter."""

    reader: str
    prompts: tuple[str, ...]
    n: int  # pictures of each set
    target_name: str
    target: dict[str, float]  # the share wanted of each group
    base: Shares
    adapted: Shares
    change: Interval | None  # of the distance, from the base to the adapter
    by_chance: float  # the mean distance of as many pictures drawn from the target itself


def shares(counts: Mapping[str, int], num_unread: int, target: Mapping[str, float]) -> Shares:
    """Shares with Wilson's intervals, Bonferroni over the groups, and their distance to the target."""
    total = sum(counts.values())
    if not total:
        return Shares(counts=dict(counts), num_unread=num_unread, groups={}, distance=None)
    confidence = simultaneous(len(counts) if len(counts) > 2 else 1)  # of two, one says all of the other
    groups = {group: share(number, total, confidence) for group, number in counts.items()}
    return Shares(counts=dict(counts), num_unread=num_unread, groups=groups, distance=distance(groups, target))


def distance(groups: Mapping[str, Interval], target: Mapping[str, float]) -> Interval:
    """Total variation, half the sum of |share - target|: the part of all pictures that would have to change groups.

    Where every share lies within its interval, it lies between the half sums of the smallest and of the largest
    |share - target| there, and is no larger than 1 minus the rarest target: with two groups that is the interval of a
    share, with more it is too wide rather than too narrow. The value is too high for few pictures: of shares
    equal to the target it is `by_chance` on average.
    """
    value = sum(abs(one.value - target[name]) for name, one in groups.items()) / 2
    low = sum(max(0.0, one.low - target[name], target[name] - one.high) for name, one in groups.items()) / 2
    high = sum(max(one.high - target[name], target[name] - one.low) for name, one in groups.items()) / 2
    return Interval(value, low, min(high, 1 - min(target.values())), next(iter(groups.values())).n)


def by_chance(target: Mapping[str, float], n: int) -> float:
    """The mean total variation of n pictures drawn from the target: half the sum of the mean deviations |x / n - p|.

    That of a binomial is 2 m C(n, m) p^m q^(n - m + 1) with m = floor(n p) + 1 (de Moivre 1730; Diaconis and Zabell
    1991).
    """
    found = 0.0
    for p in target.values():
        if 0 < p < 1:
            m = math.floor(n * p) + 1
            ways = math.lgamma(n + 1) - math.lgamma(m + 1) - math.lgamma(n - m + 1)
            found += 2 * m * math.exp(ways + m * math.log(p) + (n - m + 1) * math.log1p(-p)) / n
    return found / 2


def change(now: Shares, before: Shares) -> Interval | None:
    """The change of the distance; of pairs with equal seeds the interval is too wide. None where one was not read."""
    if now.distance is None or before.distance is None:
        return None
    return difference(now.distance, before.distance)
