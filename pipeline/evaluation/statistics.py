"""Means, shares and differences, and values of whole sets, each with its 95 % confidence interval."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Z_95 = 1.959964
MOST_FOLDS = 20  # that a jackknife leaves out one after the other


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval, and how many examples it was measured on."""

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


def paired_change(now: Float[Tensor, " n"], before: Float[Tensor, " n"]) -> Interval:
    """The mean of now - before over the same n examples, with Student's interval; infinite for one example."""
    change = now.double() - before.double()
    n, value = len(change), change.mean().item()
    half = student_95(n - 1) * change.std().item() / n**0.5 if n > 1 else float("inf")
    return Interval(value, value - half, value + half, n)


def student_95(degrees: int) -> float:
    """The 97.5 % point of Student's t (Abramowitz & Stegun 1964, 26.7.5; exact below three degrees of freedom)."""
    if degrees < 3:
        return (12.7062, 4.3027)[degrees - 1]
    z, v = Z_95, degrees
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def share(hits: int, n: int) -> Interval:
    """A share with its Wilson interval (Wilson 1927)."""
    p = hits / n
    centre = (p + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 / (1 + Z_95**2 / n) * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n * n))
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half), n)


def mean_of(values: Float[Tensor, " n"]) -> Interval:
    """A mean over pictures with Student's interval; infinite for one picture."""
    n, mean = len(values), values.double().mean().item()
    half = float("inf")
    if n > 1:
        half = student_95(n - 1) * values.double().std().item() / n**0.5
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
    half = student_95(degrees) * variance**0.5
    return Interval(value, value - half, value + half, n)
