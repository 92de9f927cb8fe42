"""Distances between two sets of pictures, from what an extractor sees in them: KID, FID, CMMD.

Groups are captions. Where pictures and reference belong to the same captions the two sides are not independent, and a
kernel of two pictures of one caption is left out of every mean.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.evaluation.statistics import Interval, distinct, student

Kernel = Callable[[Float[Tensor, "n d"], Float[Tensor, "m d"]], Float[Tensor, "n m"]]
SIGMA, TIMES = 10.0, 1000.0  # of CMMD
NUM_SUBSETS = 8  # sizes of the extrapolation of FID


def polynomial(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """The kernel (x.y / d + 1)^3 of KID (Binkowski et al. 2018, section 4)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """The kernel exp(-|x - y|^2 / (2 * 10^2)) of CMMD (Jayasumana et al. 2024, section 4)."""
    return torch.exp(-torch.cdist(x, y).square() / (2 * SIGMA**2))


def mmd(
    real: Float[Tensor, "n d"],
    fake: Float[Tensor, "m d"],
    real_groups: Int[Tensor, " n"],
    fake_groups: Int[Tensor, " m"],
    kernel: Kernel,
    *,
    confidence: float = 0.95,
) -> Interval:
    """Unbiased MMD^2: the U-statistic of Gretton et al. 2012, eq. (4), over pictures of different groups.

    For pairs, a picture and its reference to each caption, that is the formula over pairs. (KID as usually computed
    keeps the kernel of a picture with its own reference, and for such pairs comes out too low, even below zero.) The
    interval is the jackknife that leaves out one group at a time (Arvesen 1969); groups of one side alone and of both
    are independent draws, whose variances add up.
    """
    x, y = real.double(), fake.double()
    numbers = distinct(torch.cat([real_groups, fake_groups]))
    of_x, of_y = (torch.searchsorted(numbers, groups) for groups in (real_groups, fake_groups))
    parts = [_Part(x, x, of_x, of_x, kernel), _Part(y, y, of_y, of_y, kernel), _Part(x, y, of_x, of_y, kernel)]
    totals = [part.mean() for part in parts]
    value = totals[0] + totals[1] - 2 * totals[2]
    without = [part.means_without(len(numbers)) for part in parts]
    found = without[0] + without[1] - 2 * without[2]  # [groups]
    in_x, in_y = (torch.isin(torch.arange(len(numbers)), which) for which in (of_x, of_y))
    variance, degrees = 0.0, len(numbers) - 1
    for family in (in_x & in_y, in_x & ~in_y, ~in_x & in_y):
        if n := int(family.sum()):
            variance += (n - 1) / n * float((found[family] - found[family].mean()).square().sum())
            degrees = min(degrees, n - 1)
    half = student(degrees, confidence) * variance**0.5 if degrees else math.inf
    return Interval(float(value), float(value) - half, float(value) + half, len(fake))


class _Part:
    """One of the three means of kernels, over pairs of different groups."""

    def __init__(self, a: Tensor, b: Tensor, of_a: Tensor, of_b: Tensor, kernel: Kernel) -> None:
        self._of_a, self._of_b = of_a, of_b
        self._counted = (of_a[:, None] != of_b[None]).double()
        self._values = kernel(a, b) * self._counted

    def mean(self) -> Float[Tensor, ""]:
        """The mean kernel."""
        return self._values.sum() / self._counted.sum()

    def means_without(self, count: int) -> Float[Tensor, " g"]:
        """The same without each of the groups, [groups]: no pair has the same group twice, so rows and columns add."""

        def left_out(of: Tensor) -> Tensor:
            zero = torch.zeros(count, dtype=torch.float64)
            return zero.index_add(0, self._of_a, of.sum(1)).index_add(0, self._of_b, of.sum(0))

        return (self._values.sum() - left_out(self._values)) / (self._counted.sum() - left_out(self._counted))


def kid(
    real: Float[Tensor, "n d"],
    fake: Float[Tensor, "m d"],
    real_groups: Int[Tensor, " n"] | None = None,
    fake_groups: Int[Tensor, " m"] | None = None,
    *,
    confidence: float = 0.95,
) -> Interval:
    """Kernel Inception Distance (Binkowski et al. 2018) in the features given; without groups, of pairs row by row."""
    real_groups = torch.arange(len(real)) if real_groups is None else real_groups
    fake_groups = torch.arange(len(fake)) if fake_groups is None else fake_groups
    return mmd(real, fake, real_groups, fake_groups, polynomial, confidence=confidence)


def scaled(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
    """Both divided by the root mean square of the real ones: KID's kernel is meant for features of about 1."""
    size = real.double().square().mean().sqrt()
    return real / size, fake / size


def cmmd(
    real: Float[Tensor, "n d"],
    fake: Float[Tensor, "m d"],
    real_groups: Int[Tensor, " n"],
    fake_groups: Int[Tensor, " m"],
) -> Interval:
    """CMMD (Jayasumana et al. 2024): 1000 MMD^2 of CLIP embeddings of length 1, here without the bias of its code.

    With sigma = 10 the kernel is all but linear on the unit sphere, so this is the distance of the mean embeddings.
    """
    x, y = (torch.nn.functional.normalize(value.double(), dim=-1) for value in (real, fake))
    found = mmd(x, y, real_groups, fake_groups, gaussian)
    return Interval(TIMES * found.value, TIMES * found.low, TIMES * found.high, found.n)


def frechet(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> float:
    """The Fréchet distance of Gaussians with these means and covariances (Heusel et al. 2017, eq. 6): FID's formula.

    The trace of (S1 S2)^(1/2) is the sum of the singular values of A B^T, where S1 = A^T A and S2 = B^T B.
    """
    x, y = real.double(), fake.double()
    a, b = ((value - value.mean(0)) / (len(value) - 1) ** 0.5 for value in (x, y))
    shared = torch.linalg.svdvals(_square_root(a) @ _square_root(b).T).sum()
    found = (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * shared
    return float(found)


def _square_root(rows: Float[Tensor, "n d"]) -> Tensor:
    """At most d rows R with R^T R = rows^T rows."""
    return torch.linalg.qr(rows, mode="r").R if len(rows) > rows.shape[1] else rows


def frechet_at_infinity(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> float:
    """What the Fréchet distance would be of infinitely many pictures (Chong and Forsyth 2020).

    Its bias goes with 1 / n: a line through its values at several sizes, of both sets alike, meets 0 at n = infinity.
    The subsets are spread evenly over the rows.
    """
    most = min(len(real), len(fake))
    sizes = distinct(torch.linspace(max(2, most // 2), most, NUM_SUBSETS).round().long())
    values = [frechet(_spread(real, int(size)), _spread(fake, int(size))) for size in sizes]
    inverse = 1 / sizes.double()
    design = torch.stack([torch.ones_like(inverse), inverse], dim=1)
    found = torch.linalg.lstsq(design, torch.tensor(values, dtype=torch.float64)[:, None]).solution
    return float(found[0, 0])


def _spread(rows: Tensor, number: int) -> Tensor:
    return rows[torch.linspace(0, len(rows) - 1, number).round().long()]
