"""Kernel Inception Distance (Binkowski et al. 2018) over any named features, with a confidence interval."""

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
    """The polynomial kernel (x.y / d + 1)^3 of the paper, section 4."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kid(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], extractor: str) -> Estimate:
    """Unbiased MMD^2 between two sets of features (eq. 4), its interval by the delete-one jackknife.

    The jackknife of a two-sample U-statistic deletes each picture of either side once and adds the
    two variances (Arvesen 1969). The estimate may be negative where the sets are alike.
    """
    x, y = real.double(), fake.double()
    n, m = len(x), len(y)
    k_xx, k_yy, k_xy = kernel(x, x), kernel(y, y), kernel(x, y)
    sum_xx, sum_yy, sum_xy = k_xx.sum() - k_xx.trace(), k_yy.sum() - k_yy.trace(), k_xy.sum()
    value = sum_xx / (n * (n - 1)) + sum_yy / (m * (m - 1)) - 2 * sum_xy / (n * m)

    row_xx = k_xx.sum(1) - k_xx.diagonal()  # [n]: the kernel of each picture with its own side
    row_yy = k_yy.sum(1) - k_yy.diagonal()
    without_x = (
        (sum_xx - 2 * row_xx) / ((n - 1) * (n - 2))
        + sum_yy / (m * (m - 1))
        - 2 * (sum_xy - k_xy.sum(1)) / ((n - 1) * m)
    )
    without_y = (
        sum_xx / (n * (n - 1))
        + (sum_yy - 2 * row_yy) / ((m - 1) * (m - 2))
        - 2 * (sum_xy - k_xy.sum(0)) / (n * (m - 1))
    )
    variance = (n - 1) / n * (without_x - without_x.mean()).square().sum()
    variance = variance + (m - 1) / m * (without_y - without_y.mean()).square().sum()
    half = Z_95 * variance.sqrt().item()
    return Estimate(f"kid[{extractor}]", value.item(), value.item() - half, value.item() + half, min(n, m))


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
