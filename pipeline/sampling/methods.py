"""What guidance makes of a caption's prediction and a weaker one.

With c the caption's prediction, u the weaker one and w the scale:

    cfg            u + w (c - u)                                  Ho & Salimans 2022, eq. 6, with w for their 1 + w
    apg            c + (w - 1) (d_orthogonal + eta d_parallel)    Sadat et al. 2024, algorithm 1, d of the data
    cfg_zero_star  s u + w (c - s u), s = <c, u> / |u|^2          Fan et al. 2025, nothing in the first step

w = 1 is c in all of them. Projection, clipping and momentum of APG, s and the rescaling are diffusers' own functions.
Which of its conventions they follow is said here: `normalized_guidance` begins at u unless told otherwise, and takes
w - 1; the guiders around these functions count steps where this one counts noise, so they are not used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.sampling.levels import Level
from pipeline.sampling.options import GuidanceOptions

ZERO_STEPS = 1  # of CFG-Zero*, as in its authors' code


@dataclass(frozen=True)
class Point:
    """Where a prediction was made: the denoiser's input, how noisy it is, and the number of the step."""

    x_t: Float[Tensor, "b c h w"]
    level: Level
    step: int


Combination = Callable[[Tensor, Tensor, Point], Tensor]  # the caption's prediction and the weaker one, [b c h w] each


@dataclass(frozen=True)
class Cfg:
    """Classifier-free guidance, in the order of operations of stock pipelines."""

    scale: float

    def __call__(
        self, cond: Float[Tensor, "b c h w"], other: Float[Tensor, "b c h w"], point: Point
    ) -> Float[Tensor, "b c h w"]:
        """other + w (cond - other)."""
        return other + self.scale * (cond - other)


@dataclass(frozen=True)
class CfgZeroStar:
    """The unconditional prediction scaled to be as near to the caption's as it can be; no first step."""

    scale: float

    def __call__(
        self, cond: Float[Tensor, "b c h w"], other: Float[Tensor, "b c h w"], point: Point
    ) -> Float[Tensor, "b c h w"]:
        """s other + w (cond - s other)."""
        from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale

        if point.step < ZERO_STEPS:
            return torch.zeros_like(cond)
        fit: Tensor = cfg_zero_star_scale(cond.flatten(1), other.flatten(1))[:, :, None, None]  # [b 1 1 1]
        return fit * other + self.scale * (cond - fit * other)


@dataclass(frozen=True)
class Apg:
    """Adaptive projected guidance, on what the two predictions say of the data."""

    scale: float
    eta: float
    norm: float | None
    differences: Any  # diffusers' running sum over the steps of one draw

    def __call__(
        self, cond: Float[Tensor, "b c h w"], other: Float[Tensor, "b c h w"], point: Point
    ) -> Float[Tensor, "b c h w"]:
        """The caption's prediction, moved as far as the data moves."""
        from diffusers.guiders.adaptive_projected_guidance import normalized_guidance

        data, weaker = (point.level.data(prediction, point.x_t) for prediction in (cond, other))
        guided: Tensor = normalized_guidance(
            data,
            weaker,
            self.scale - 1,
            self.differences,
            self.eta,
            norm_threshold=self.norm or 0.0,
            use_original_formulation=True,
        )
        return cond + (guided - data) / point.level.slope


@dataclass(frozen=True)
class Rescaled:
    """Another method, its deviation brought back to that of the caption's (Lin et al. 2023, eq. 15 and 16)."""

    method: Combination
    share: float

    def __call__(
        self, cond: Float[Tensor, "b c h w"], other: Float[Tensor, "b c h w"], point: Point
    ) -> Float[Tensor, "b c h w"]:
        """share * rescaled + (1 - share) * guided; guided alone where it deviates by nothing, as CFG-Zero* begins."""
        from diffusers.guiders.guider_utils import rescale_noise_cfg

        guided = self.method(cond, other, point)
        deviates = guided.flatten(1).std(1).view(-1, 1, 1, 1) > 0
        return torch.where(deviates, rescale_noise_cfg(guided, cond, self.share), guided)


def combination(options: GuidanceOptions, scale: float) -> Combination:
    """What the options ask for at this scale: a new one for each draw, because APG adds up what its steps differ by."""
    method = _method(options, scale)
    return Rescaled(method, options.guidance_rescale) if options.guidance_rescale else method


def projects(options: GuidanceOptions) -> bool:
    """Whether APG is anything but CFG: what is split and put together again unchanged would only be rounded."""
    return options.apg_eta != 1 or options.apg_norm is not None or options.apg_momentum != 0


def _method(options: GuidanceOptions, scale: float) -> Combination:
    if options.guidance_method == "cfg_zero_star":
        return CfgZeroStar(scale)
    if options.guidance_method == "cfg" or not projects(options):
        return Cfg(scale)
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

    return Apg(scale, options.apg_eta, options.apg_norm, MomentumBuffer(options.apg_momentum))
