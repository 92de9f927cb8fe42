"""How a flow model's times are drawn: from uniform numbers through the inverse of a distribution on sigma itself.

Not through the scheduler's list of timesteps: that list descends, so a density meant for sigma would
be applied to 1 - sigma, and the scheduler's shift would be in it unseen.
"""

import math
from collections.abc import Callable

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


def density_for(options: ObjectiveOptions) -> Density:
    """The density that --weighting_scheme asks for; what is a weight there is drawn evenly."""
    scheme = options.weighting_scheme or "logit_normal"
    if scheme == "logit_normal":
        return logit_normal(options.logit_mean, options.logit_std)
    return mode(options.mode_scale) if scheme == "mode" else uniform
