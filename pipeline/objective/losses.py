"""The distance between prediction and target."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.objective.options import HuberSchedule


@dataclass(frozen=True)
class Huber:
    """Pseudo-Huber distances: squares of what is small beside c, 2 c |d| of what is large (arXiv 2403.16728)."""

    c: float
    schedule: HuberSchedule

    def at(self, t: Float[Tensor, " b"], log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The bend of each example: c everywhere, or falling to it with the noise: as c^t, or by 1 / (1 + sigma)^2."""
        if self.schedule == "constant":
            return torch.full_like(log_snr, self.c)
        if self.schedule == "exponential":
            return self.c ** t.to(log_snr.dtype)
        return (1 - self.c) * torch.sigmoid(log_snr / 2).square() + self.c  # sigmoid(log_snr / 2) = 1 / (1 + sigma)


def squared_error(
    prediction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    counts: Float[Tensor, "b 1 h w"] | None = None,
) -> Float[Tensor, " b"]:
    """Mean squared error of each example, in float32; with `counts` the mean by these weights, 0 where all are 0."""
    return _mean((prediction.float() - target.float()).square(), counts)


def huber_error(
    prediction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    bend: Float[Tensor, " b"],
    counts: Float[Tensor, "b 1 h w"] | None = None,
) -> Float[Tensor, " b"]:
    """Mean of 2 c (sqrt(d^2 + c^2) - c), written so that it keeps its digits where c is large; d^2 in the limit."""
    square = (prediction.float() - target.float()).square()
    ratio = square / bend[:, None, None, None].square()
    return _mean(2 * square / ((1 + ratio).sqrt() + 1), counts)


def counted(mask: Float[Tensor, "b 1 h w"], unmasked_weight: float) -> Float[Tensor, "b 1 h w"]:
    """What each place counts: 1 where the mask is white, `unmasked_weight` where it is black."""
    return unmasked_weight + (1 - unmasked_weight) * mask


def _mean(error: Float[Tensor, "b c h w"], counts: Float[Tensor, "b 1 h w"] | None) -> Float[Tensor, " b"]:
    if counts is None:
        return error.mean(dim=(1, 2, 3))
    total: Float[Tensor, " b"] = counts.sum(dim=(1, 2, 3))
    return (error.mean(dim=1, keepdim=True) * counts).sum(dim=(1, 2, 3)) / total.clamp_min(1e-6)
