"""Kernel Inception Distance (Binkowski et al. 2018) and others, each with a confidence interval."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Z_95 = 1.959964


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


def kernel(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """The polynomial kernel (x.y / d + 1)^3 of the paper on KID, section 4."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kid(real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"]) -> Interval:
    """Unbiased MMD^2 between pictures drawn from captions and the reference pictures of the same captions, row by row.

    The two sides are not independent, so the kernel of a picture with its own reference is left out like that of
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
    return Interval(value.item(), value.item() - half, value.item() + half, n)


def scaled_kid(real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"]) -> Interval:
    """KID of features divided by the root mean square of the real ones: its kernel is meant for features of about 1."""
    size = real.double().square().mean().sqrt()
    return kid(real / size, fake / size)


def own_is_nearest(real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"]) -> Interval:
    """The share of rows of `fake` to which, of all rows of `real`, their own is the nearest (Euclidean)."""
    nearest = torch.cdist(fake.double(), real.double()).argmin(1)
    return share(int((nearest.cpu() == torch.arange(len(real))).sum()), len(real))


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
    half = Z_95 / (1 + Z_95**2 / n) * torch.tensor(p * (1 - p) / n + Z_95**2 / (4 * n * n)).sqrt().item()
    return Interval(p, centre - half, centre + half, n)


def margins(images: Float[Tensor, "n d"], captions: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """How much nearer each picture is to its own caption than to the others': cosine minus the mean of the others.

    A bare CLIP score (Hessel et al. 2021) rises with whatever all captions share; the margin does not.
    Pictures with equal captions are no 'others' to each other; a picture without any other has margin 0.
    """
    images, captions = (torch.nn.functional.normalize(value.double(), dim=-1) for value in (images, captions))
    cosine = images @ captions.T
    other = (captions @ captions.T < 1 - 1e-6).double()
    mean = (cosine * other).sum(1) / other.sum(1).clamp(min=1)
    return torch.where(other.sum(1) > 0, cosine.diagonal() - mean, 0.0).float()


def mean_of(values: Float[Tensor, " n"]) -> Interval:
    """A mean over pictures with Student's interval; infinite for one picture."""
    n, mean = len(values), values.double().mean().item()
    half = float("inf")
    if n > 1:
        half = (student_95(n - 1) if n < 10_000 else Z_95) * values.double().std().item() / n**0.5
    return Interval(mean, mean - half, mean + half, n)
