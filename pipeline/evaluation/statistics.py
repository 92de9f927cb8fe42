"""Means, shares and differences, and values of whole sets, each with a confidence interval, of 95 % if not said."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float, Int
from torch import Tensor

NO_WIDTH = 1e-9  # of an interval: what rounding leaves where all values are equal
MOST_FOLDS = 20  # that a jackknife leaves out one after the other


@dataclass(frozen=True)
class Interval:
    """A value with its interval, of 95 % if not said, and how many examples it was measured on."""

    value: float
    low: float
    high: float
    n: int

    def over(self, base: float) -> "Interval":
        """The same as shares of `base`."""
        return Interval(self.value / base, self.low / base, self.high / base, self.n)

    def text(self, form: str) -> str:
        """For people, each number in a format like '{:.3f}'; of one example there is no interval."""
        ends = f"[{form.format(self.low)}, {form.format(self.high)}]"
        return f"{form.format(self.value)} {ends if math.isfinite(self.high - self.low) else '(no interval)'}"


def paired_change(now: Float[Tensor, " n"], before: Float[Tensor, " n"], confidence: float = 0.95) -> Interval:
    """The mean of now - before over the same n examples, with Student's interval; infinite for one example."""
    return mean_of(now.double() - before.double(), confidence)


@functools.cache
def student(degrees: int, confidence: float = 0.95) -> float:
    """How many standard errors to each side hold a share of Student's t with so many degrees of freedom.

    The distribution is exact (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4) and is inverted by bisection.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(64):
        angle = (low + high) / 2
        too_low = student_within(math.tan(angle) * math.sqrt(degrees), degrees) < confidence
        low, high = (angle, high) if too_low else (low, angle)
    return math.tan(low) * math.sqrt(degrees)


def student_within(t: float, degrees: int) -> float:
    """The share of Student's t with so many degrees of freedom that lies between -t and t."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine, odd = math.sin(angle), math.cos(angle), degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(1 + odd, degrees, 2):  # the k-th power of the cosine comes next
        total += term
        term *= cosine**2 * k / (k + 1)
    return (angle + sine * total) * 2 / math.pi if odd else sine * total


def normal(confidence: float = 0.95) -> float:
    """How many standard deviations to each side hold a share of the normal distribution."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def share(hits: int | float, n: int, confidence: float = 0.95) -> Interval:
    """A share with its Wilson interval (Wilson 1927)."""
    p, z = hits / n, normal(confidence)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n * n))
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half), n)


def as_share(found: Interval, count: int, confidence: float = 0.95) -> Interval:
    """The interval of a share lies within 0 and 1, and has a width.

    That of none, of all, and of `count` values that are equal, whose spread says nothing, is that of as many coins.
    """
    if found.value in (0, 1) or found.high - found.low < NO_WIDTH:
        ends = share(found.value * count, count, confidence)
        return Interval(found.value, ends.low, ends.high, found.n)
    return Interval(found.value, max(found.low, 0.0), min(found.high, 1.0), found.n)


def difference(first: Interval, second: Interval) -> Interval:
    """first - second of two that were measured apart, from their intervals alone (Zou and Donner 2008, eq. 5).

    Of shares with Wilson's intervals it is Newcombe's hybrid score interval (1998, method 10), which has a width even
    where all or none agree; of means it is Welch's but for the degrees of freedom. Where the two rise and fall together
    it is too wide.
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, value - below, value + above, min(first.n, second.n))


def mean_of(values: Float[Tensor, " n"], confidence: float = 0.95) -> Interval:
    """A mean over pictures with Student's interval; infinite for one picture."""
    n, mean = len(values), values.double().mean().item()
    half = student(n - 1, confidence) * values.double().std().item() / n**0.5 if n > 1 else math.inf
    return Interval(mean, mean - half, mean + half, n)


def distinct(groups: Int[Tensor, " n"]) -> Int[Tensor, " g"]:
    """The numbers that occur, in order."""
    found: Tensor = groups.unique()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return found


def means_by(values: Float[Tensor, " n"], groups: Int[Tensor, " n"]) -> Float[Tensor, " g"]:
    """The mean of each group, in the order of their numbers: pictures of one caption are no independent examples."""
    numbers = distinct(groups)
    places = torch.searchsorted(numbers, groups)
    sums = torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, places, values.double())
    return sums / torch.bincount(places)


def folds_of(groups: Int[Tensor, " n"]) -> list[Int[Tensor, "..."]]:
    """The numbers of the groups in at most MOST_FOLDS parts of about equal size: the g-th of them in part g mod k."""
    numbers = distinct(groups)
    count = min(len(numbers), MOST_FOLDS)
    return [numbers[first::count] for first in range(count)]


def jackknifed(
    value: float,
    n: int,
    families: Sequence[Sequence[Int[Tensor, "..."]]],
    without: Callable[[Int[Tensor, "..."]], float],
    confidence: float = 0.95,
) -> Interval:
    """A value of a whole set with the interval of the delete-a-group jackknife (Kott 2001, eq. 3), Student's.

    `without(groups)` is the value where these are left out. Families are parts that were drawn independently, as
    pictures and a reference of other captions are: their variances add up. With fewer than two folds in one, the
    interval is infinite.
    """
    variance, degrees = 0.0, MOST_FOLDS
    for folds in families:
        if len(folds) < 2:
            return Interval(value, -math.inf, math.inf, n)
        found = torch.tensor([without(fold) for fold in folds], dtype=torch.float64)
        variance += (len(folds) - 1) / len(folds) * float((found - found.mean()).square().sum())
        degrees = min(degrees, len(folds) - 1)
    half = student(degrees, confidence) * variance**0.5
    return Interval(value, value - half, value + half, n)
