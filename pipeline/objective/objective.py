"""What is minimised: from a batch to the loss of each example. The method on one screen."""

from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from pipeline.objective.losses import counted, squared_error
from pipeline.objective.paths import DiffusionPath
from pipeline.objective.weighting import Weighting

Conditions = TypeVar("Conditions", contravariant=True)  # what a denoiser is conditioned on; nothing here looks at it


@runtime_checkable
class Denoiser(Protocol[Conditions]):
    """A model that predicts, with the adapter; `base` is the same model without it."""

    def __call__(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditions
    ) -> Float[Tensor, "b c h w"]:
        """The prediction at time t."""

    def base(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditions
    ) -> Float[Tensor, "b c h w"]:
        """The same without the adapter and without gradient."""

    def num_tokens(self, latents: Float[Tensor, "b c h w"]) -> int:
        """How many tokens it sees of each picture."""


@runtime_checkable
class Examples(Protocol):
    """A batch: latents with their noise, and uniform numbers to become times."""

    @property
    def latents(self) -> Float[Tensor, "b c h w"]:
        """A draw from the autoencoder's posterior."""

    @property
    def noise(self) -> Float[Tensor, "b c h w"]:
        """Standard normal."""

    @property
    def mask(self) -> Float[Tensor, "b 1 h w"] | None:
        """What of each picture counts, in [0, 1]; None: all of it."""

    @property
    def weights(self) -> Float[Tensor, " b"] | None:
        """What the error of each counts; None: all the same."""

    @property
    def u(self) -> Float[Tensor, " b"]:
        """Uniform in [0, 1)."""


@dataclass(frozen=True)
class Objective:
    """Denoising: the weighted squared error of the prediction on the path (Ho et al. 2020, eq. 14, with weights)."""

    path: DiffusionPath
    weighting: Weighting
    preservation_weight: float = 0.0  # of the distance to the base under the `preserved` conditioning
    unmasked_weight: float = 0.0  # of the error where a mask is black
    unmasked_preservation: float = 0.0  # of the distance to the base there

    def __call__(
        self,
        denoiser: Denoiser[Conditions],
        batch: Examples,
        conditioning: Conditions,
        preserved: Conditions | None = None,
    ) -> Float[Tensor, " b"]:
        """Latents -> noise -> prediction -> the loss of each example, in float32."""
        t = self.path.time(batch.u, denoiser.num_tokens(batch.latents)).to(batch.latents.device)
        sample = self.path.sample(batch.latents, batch.noise, t)
        prediction = denoiser(sample.x_t, sample.t, conditioning)
        if batch.mask is None:
            error = squared_error(prediction, sample.target)
        else:
            error = squared_error(prediction, sample.target, counted(batch.mask, self.unmasked_weight))
            if self.unmasked_preservation:
                before = denoiser.base(sample.x_t, sample.t, conditioning)
                error = error + self.unmasked_preservation * squared_error(prediction, before, 1 - batch.mask)
        if batch.weights is not None:
            error = batch.weights * error
        if preserved is not None:
            before = denoiser.base(sample.x_t, sample.t, preserved)
            drift = squared_error(denoiser(sample.x_t, sample.t, preserved), before)
            error = error + self.preservation_weight * drift
        return self.weighting(sample.log_snr) * error
