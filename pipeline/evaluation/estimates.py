"""Kernel Inception Distance (Binkowski et al. 2018) and others, each with a confidence interval."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Z_95 = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A measured value: what it was measured with, on how much, and its 95 % interval."""

    name: str
    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] (n = {self.n})"


def kernel(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """The polynomial kernel (x.y / d + 1)^3 of the paper on KID, section 4."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kid(real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"], extractor: str) -> Estimate:
    """Unbiased MMD^2 between pictures drawn from captions and the true pictures of the same captions, row by row.

    The two sides are not independent, so the kernel of a picture with its own truth is left out like that of
    a picture with itself: the U-statistic of Gretton et al. 2012, eq. (4), over pairs. (KID as usually
    computed keeps those n terms, and for such pairs comes out too low, even below zero.) The interval is the
    jackknife that leaves out one pair at a time (Arvesen 1969).
    """
    x, y, n = real.double(), fake.double(), len(real)
    k_xy = kernel(x, y)
    h = kernel(x, x) + kernel(y, y) - k_xy - k_xy.T
    h.fill_diagonal_(0)
    value = h.sum() / (n * (n - 1))
    without = (h.sum() - 2 * h.sum(1)) / ((n - 1) * (n - 2))  # [n]
    variance = (n - 1) / n * (without - without.mean()).square().sum()
    half = Z_95 * variance.sqrt().item()
    return Estimate(f"kid[{extractor}]", value.item(), value.item() - half, value.item() + half, n)


def paired_change(name: str, now: Float[Tensor, " n"], before: Float[Tensor, " n"]) -> Estimate:
    """The mean of now - before over the same n examples, with Student's interval; infinite for one example."""
    change = now.double() - before.double()
    n, value = len(change), change.mean().item()
    half = student_95(n - 1) * change.std().item() / n**0.5 if n > 1 else float("inf")
    return Estimate(name, value, value - half, value + half, n)


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


def share(name: str, hits: int, n: int) -> Estimate:
    """A share with its Wilson interval (Wilson 1927)."""
    p = hits / n
    centre = (p + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 / (1 + Z_95**2 / n) * torch.tensor(p * (1 - p) / n + Z_95**2 / (4 * n * n)).sqrt().item()
    return Estimate(name, p, centre - half, centre + half, n)
