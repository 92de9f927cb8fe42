"""The path from data to noise, and the target the denoiser learns along it."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.objective.timesteps import Density, shifted

Prediction = Literal["epsilon", "v_prediction", "flow"]


@dataclass(frozen=True)
class Noised:
    """A point on the path, with what the denoiser should say there."""

    x_t: Float[Tensor, "b c h w"]
    target: Float[Tensor, "b c h w"]
    t: Float[Tensor, " b"]
    log_snr: Float[Tensor, " b"]  # -inf where nothing of the data is left


@runtime_checkable
class DiffusionPath(Protocol):
    """What the step needs of a path."""

    @property
    def prediction(self) -> Prediction:
        """What the denoiser says."""

    def time(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Uniform numbers in [0, 1) to the times that are trained on."""

    def level(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Numbers in [0, 1) to times over the whole path, for measuring: no density, no shift."""

    def noise(self, x_0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Noised:
        """Move x_0 along the path to time t."""


@dataclass(frozen=True)
class VariancePreserving:
    """x_t = alpha_t x_0 + sigma_t noise on N discrete times, alpha_t^2 + sigma_t^2 = 1 (Ho et al. 2020, eq. 4).

    The target is the noise, or v = alpha_t noise - sigma_t x_0 (Salimans & Ho 2022, appendix D).
    """

    alphas_cumprod: Float[Tensor, " n"]  # alpha_t^2
    prediction: Prediction

    def time(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Uniform numbers in [0, 1) to times i / N, every index i as likely as any other."""
        count = len(self.alphas_cumprod)
        return ((u * count).floor() / count).float()

    def level(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The same: a discrete schedule is measured as it is trained."""
        return self.time(u)

    def index(self, t: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
        """The index i of t = i / N. By rounding: truncation is wrong for five of 1000 indices in float32."""
        return (t * len(self.alphas_cumprod)).round().long()

    def noise(self, x_0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Noised:
        """Move x_0 along the path to time t."""
        signal = self.alphas_cumprod.to(x_0.device)[self.index(t)]  # [b]
        alpha, sigma = signal.sqrt()[:, None, None, None], (1 - signal).sqrt()[:, None, None, None]
        target = noise if self.prediction == "epsilon" else alpha * noise - sigma * x_0
        log_snr = torch.log(signal) - torch.log1p(-signal)
        return Noised(alpha * x_0 + sigma * noise, target, t, log_snr)


@dataclass(frozen=True)
class RectifiedFlow:
    """z_t = (1 - t) x_0 + t noise; the target is noise - x_0 (Liu et al. 2023; Esser et al. 2024, eq. 13).

    Times are real numbers, drawn by the density and then shifted towards noise.
    """

    density: Density
    shift: float
    prediction: Prediction = "flow"

    def time(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Uniform numbers in [0, 1) to times in [0, 1]."""
        return shifted(self.density(u), self.shift).float()

    def level(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The number itself."""
        return u.float()

    def noise(self, x_0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Noised:
        """Move x_0 along the path to time t."""
        far = t[:, None, None, None]
        log_snr = 2 * (torch.log1p(-t) - torch.log(t))
        return Noised((1 - far) * x_0 + far * noise, noise - x_0, t, log_snr)
