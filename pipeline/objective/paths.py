"""The path from data to noise, and the target the denoiser learns along it."""

import dataclasses
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.objective.timesteps import WHOLE, Density, Limits, Shift, shifted, squeezed, uniform

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]


@dataclass(frozen=True)
class PathSample:
    """A point on the path, with what the denoiser should predict there."""

    x_t: Float[Tensor, "b c h w"]
    target: Float[Tensor, "b c h w"]
    t: Float[Tensor, " b"]
    log_snr: Float[Tensor, " b"]  # -inf where nothing of the data is left


@runtime_checkable
class DiffusionPath(Protocol):
    """What the objective needs of a path."""

    @property
    def prediction(self) -> Prediction:
        """What the denoiser predicts."""

    @property
    def last(self) -> float:
        """The time that is nearest to noise."""

    def log_snr(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """ln(alpha_t^2 / sigma_t^2), -inf where nothing of the data is left."""

    def time(self, u: Float[Tensor, " b"], num_tokens: int) -> Float[Tensor, " b"]:
        """Uniform numbers in [0, 1) to the times that are trained on, for pictures of so many tokens."""

    def validation_time(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Numbers in [0, 1) to times over the whole path, for measuring: no density, no shift."""

    def sample(
        self, x_0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
    ) -> PathSample:
        """The point at time t between x_0 and noise."""

    def split(
        self, prediction: Float[Tensor, "b c h w"], x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """The data and the noise that x_t is made of, if the prediction is right: the inverse of `sample`."""

    def to(self, device: torch.device) -> "DiffusionPath":
        """The same path with its tables on a device."""


def index_of(t: Float[Tensor, " b"], num_times: int) -> Int[Tensor, " b"]:
    """The index i of t = i / N. By rounding: truncation is wrong for five of 1000 indices in float32."""
    return (t * num_times).round().long()


@dataclass(frozen=True)
class VariancePreserving:
    """x_t = alpha_t x_0 + sigma_t noise on N discrete times, alpha_t^2 + sigma_t^2 = 1 (Ho et al. 2020, eq. 4).

    The target is the noise, v = alpha_t noise - sigma_t x_0 (Salimans & Ho 2022, appendix D), or x_0.
    """

    alphas_cumprod: Float[Tensor, " n"]  # alpha_t^2
    prediction: Prediction
    density: Density = uniform
    limits: Limits = WHOLE

    @property
    def last(self) -> float:
        """The last of N times, (N - 1) / N."""
        return 1 - 1 / len(self.alphas_cumprod)

    def log_snr(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """ln(alpha_t^2 / sigma_t^2), on the table's device."""
        signal = self.alphas_cumprod[self.index(t.to(self.alphas_cumprod.device))]
        return torch.log(signal) - torch.log1p(-signal)

    def time(self, u: Float[Tensor, " b"], num_tokens: int) -> Float[Tensor, " b"]:
        """Uniform numbers in [0, 1) to times i / N, by the density, within the limits."""
        return self._floored(squeezed(self.density(u), self.limits))

    def validation_time(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The index below: every one of them counts alike."""
        return self._floored(u)

    def _floored(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        count = len(self.alphas_cumprod)
        return ((t * count).floor().clamp(max=count - 1) / count).float()

    def index(self, t: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
        """The index i of t = i / N."""
        return index_of(t, len(self.alphas_cumprod))

    def sample(
        self, x_0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
    ) -> PathSample:
        """The point at time t between x_0 and noise."""
        signal = self.alphas_cumprod[self.index(t)]  # [b]
        alpha, sigma = _roots(signal)
        log_snr = torch.log(signal) - torch.log1p(-signal)
        return PathSample(alpha * x_0 + sigma * noise, self._target(x_0, noise, alpha, sigma), t, log_snr)

    def _target(self, x_0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        if self.prediction == "sample":
            return x_0
        return noise if self.prediction == "epsilon" else alpha * noise - sigma * x_0

    def split(
        self, prediction: Float[Tensor, "b c h w"], x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """The data and the noise that x_t is made of, if the prediction is right."""
        alpha, sigma = _roots(self.alphas_cumprod[self.index(t)])
        if self.prediction == "epsilon":
            return (x_t - sigma * prediction) / alpha, prediction
        if self.prediction == "sample":
            return prediction, (x_t - alpha * prediction) / sigma
        return alpha * x_t - sigma * prediction, sigma * x_t + alpha * prediction

    def to(self, device: torch.device) -> "VariancePreserving":
        """The same path with its table on a device."""
        return dataclasses.replace(self, alphas_cumprod=self.alphas_cumprod.to(device))


@dataclass(frozen=True)
class RectifiedFlow:
    """z_t = (1 - t) x_0 + t noise; the target is noise - x_0 (Liu et al. 2023; Esser et al. 2024, eq. 13).

    Times are real numbers, drawn by the density and then shifted towards noise.
    """

    density: Density
    shift: Shift
    prediction: Prediction = "flow"
    limits: Limits = WHOLE
    last: float = 1.0

    def log_snr(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """2 ln((1 - t) / t)."""
        return 2 * (torch.log1p(-t) - torch.log(t))

    def time(self, u: Float[Tensor, " b"], num_tokens: int) -> Float[Tensor, " b"]:
        """Uniform numbers in [0, 1) to times in [0, 1]."""
        return squeezed(shifted(self.density(u), self.shift(num_tokens)), self.limits).float()

    def validation_time(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The number itself."""
        return u.float()

    def sample(
        self, x_0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
    ) -> PathSample:
        """The point at time t between x_0 and noise."""
        far = t[:, None, None, None]
        return PathSample((1 - far) * x_0 + far * noise, noise - x_0, t, self.log_snr(t))

    def split(
        self, prediction: Float[Tensor, "b c h w"], x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """The data and the noise that x_t is made of, if the prediction is right."""
        far = t[:, None, None, None]
        return x_t - far * prediction, x_t + (1 - far) * prediction

    def to(self, device: torch.device) -> "RectifiedFlow":
        """Itself: it has no table."""
        return self


def _roots(signal: Float[Tensor, " b"]) -> tuple[Float[Tensor, "b 1 1 1"], Float[Tensor, "b 1 1 1"]]:
    """alpha and sigma of alpha^2."""
    return signal.sqrt()[:, None, None, None], (1 - signal).sqrt()[:, None, None, None]
