"""How a flow model's times are drawn: from uniform numbers through the inverse of a distribution on sigma itself.

Not through the scheduler's list of timesteps: that list descends, so a density meant for sigma would
be applied to 1 - sigma, and the scheduler's shift would be in it unseen.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.objective.options import ObjectiveOptions

Density = Callable[[Float[Tensor, " b"]], Float[Tensor, " b"]]


def uniform(u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Every time as likely as any other."""
    return u


def logit_normal(mean: float, std: float) -> Density:
    """logit(t) normal (Esser et al. 2024, eq. 19); a mean above 0 prefers noise."""
    return lambda u: torch.sigmoid(mean + std * torch.special.ndtri(u))


def mode(scale: float) -> Density:
    """t = 1 - v - s (cos^2(pi v / 2) - 1 + v) with v = 1 - u (Esser et al. 2024, eq. 20): rising in u."""

    def inverse(u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        v = 1 - u
        return 1 - v - scale * (torch.cos(math.pi / 2 * v).square() - 1 + v)

    return inverse


def shifted(t: Float[Tensor, " b"], shift: float) -> Float[Tensor, " b"]:
    """s t / (1 + (s - 1) t) (Esser et al. 2024, eq. 23): adds log(s) to logit(t)."""
    return shift * t / (1 + (shift - 1) * t)


@dataclass(frozen=True)
class ConstantShift:
    """The same shift for every picture."""

    value: float

    def __call__(self, num_tokens: int) -> float:
        """The shift."""
        return self.value


@dataclass(frozen=True)
class DynamicShift:
    """A shift that grows with the number of image tokens, as FLUX's scheduler has it: mu is linear in the tokens."""

    few: int  # tokens at which mu is low
    many: int
    low: float
    high: float
    is_exponential: bool  # the shift is e^mu, else mu itself

    def __call__(self, num_tokens: int) -> float:
        """The shift for a picture of so many tokens."""
        mu = self.low + (self.high - self.low) * (num_tokens - self.few) / (self.many - self.few)
        return math.exp(mu) if self.is_exponential else mu


Shift = ConstantShift | DynamicShift


def build_density(options: ObjectiveOptions) -> Density:
    """The density that --weighting_scheme asks for; schemes that are weights draw times evenly."""
    scheme = options.weighting_scheme or "logit_normal"
    if scheme == "logit_normal":
        return logit_normal(options.logit_mean, options.logit_std)
    return mode(options.mode_scale) if scheme == "mode" else uniform
