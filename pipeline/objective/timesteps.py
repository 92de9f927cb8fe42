"""How times are drawn: from uniform numbers through the inverse of a distribution on the time itself.

Not through the scheduler's list of timesteps: that list descends, so a density meant for sigma would
be applied to 1 - sigma, and the scheduler's shift would be in it unseen.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.objective.time_options import Scheme, TimeOptions

Density = Callable[[Float[Tensor, " b"]], Float[Tensor, " b"]]
Limits = tuple[float, float]
WHOLE: Limits = (0.0, 1.0)
NUM_PLACES = 100_001  # of the table by which beta is inverted: 1e-9 of its mass lies between two where it is steepest


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


def beta(a: float, b: float) -> Density:
    """Beta(a, b), with mean a / (a + b): its distribution summed up on a fine grid, and read backwards.

    The grid is even in the angle of t = sin^2, where the density has no poles for a and b from 1/2 on.
    """
    angle = torch.linspace(0, math.pi / 2, NUM_PLACES, dtype=torch.float64)
    middle = (angle[1:] + angle[:-1]) / 2
    mass = (2 * a - 1) * middle.sin().log() + (2 * b - 1) * middle.cos().log()  # dt = 2 sin cos d angle
    reached = torch.cat([torch.zeros(1, dtype=torch.float64), (mass - mass.max()).exp().cumsum(0)])
    reached /= reached[-1].clone()

    def inverse(u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        wanted = u.double().clamp(0, 1)
        above = torch.searchsorted(reached, wanted, right=True).clamp(1, NUM_PLACES - 1)
        low, high = reached[above - 1], reached[above]
        share = ((wanted - low) / (high - low).clamp_min(1e-300)).clamp(0, 1)
        return (angle[above - 1] + share * (angle[above] - angle[above - 1])).sin().square()

    return inverse


def squeezed(t: Float[Tensor, " b"], limits: Limits) -> Float[Tensor, " b"]:
    """Times of [0, 1] to those between two limits, evenly."""
    low, high = limits
    return t if limits == WHOLE else low + (high - low) * t


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


def build_density(options: TimeOptions, *, usual: Scheme) -> Density:
    """The density that --weighting_scheme asks for, else the usual one; schemes that are weights draw times evenly."""
    scheme = options.weighting_scheme or usual
    if scheme == "logit_normal":
        return logit_normal(options.logit_mean, options.logit_std)
    if scheme == "beta":
        return beta(options.beta_a, options.beta_b)
    return mode(options.mode_scale) if scheme == "mode" else uniform
