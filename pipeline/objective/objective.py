"""What is minimised: from a batch to the loss of each example. The method on one screen."""

import dataclasses
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.objective.guided import GuidedTarget
from pipeline.objective.losses import Huber, counted, huber_error, squared_error
from pipeline.objective.paths import DiffusionPath, PathSample
from pipeline.objective.weighting import Weighting

Conditions = TypeVar("Conditions", contravariant=True)  # what a denoiser is conditioned on; nothing here looks at it
Given = TypeVar("Given")  # the same


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
class Pictures(Protocol):
    """A batch of latents with their noise."""

    @property
    def latents(self) -> Float[Tensor, "b c h w"]:
        """A draw from the autoencoder's posterior."""

    @property
    def noise(self) -> Float[Tensor, "b c h w"]:
        """Standard normal, or what --noise_offset and its like make of it."""

    @property
    def perturbed(self) -> Float[Tensor, "b c h w"] | None:
        """The noise that the model sees, where that is more than it is asked to remove."""

    @property
    def mask(self) -> Float[Tensor, "b 1 h w"] | None:
        """What of each picture counts, in [0, 1]; None: all of it."""

    @property
    def weights(self) -> Float[Tensor, " b"] | None:
        """What the error of each counts; None: all the same."""


@runtime_checkable
class Examples(Pictures, Protocol):
    """The same, with uniform numbers to become times."""

    @property
    def u(self) -> Float[Tensor, " b"]:
        """Uniform in [0, 1)."""


@dataclass(frozen=True)
class Beside(Generic[Given]):
    """What else the model is asked for, at the points of a batch."""

    preserved: Given | None = None  # for this it shall stay what it was
    other: Given | None = None  # without the caption, or for a wrong one: guided targets lead away from it
    scales: Float[Tensor, " b"] | None = None  # the guidance that each example is to learn, 1 for none


@dataclass(frozen=True)
class Objective:
    """Denoising: the weighted error of the prediction on the path (Ho et al. 2020, eq. 14, with weights)."""

    path: DiffusionPath
    weighting: Weighting
    huber: Huber | None = None  # None: squares
    guided: GuidedTarget | None = None  # None: the data's own target
    preservation_weight: float = 0.0  # of the distance to the base under the `preserved` conditioning
    unmasked_weight: float = 0.0  # of the error where a mask is black
    unmasked_preservation: float = 0.0  # of the distance to the base there

    def __call__(
        self,
        denoiser: Denoiser[Given],
        batch: Examples,
        conditioning: Given,
        beside: Beside[Given] | None = None,
    ) -> Float[Tensor, " b"]:
        """The loss of each example, in float32, at the times that its uniform number becomes."""
        t = self.path.time(batch.u, denoiser.num_tokens(batch.latents)).to(batch.latents.device)
        return self.at(denoiser, batch, t, conditioning, beside or Beside())

    def at(
        self,
        denoiser: Denoiser[Given],
        batch: Pictures,
        t: Float[Tensor, " b"],
        conditioning: Given,
        beside: Beside[Given],
    ) -> Float[Tensor, " b"]:
        """Latents -> noise -> prediction -> the loss of each example, in float32, at given times.

        All that it takes are tensors on the device: nothing is copied there or read back.
        """
        sample = self.path.sample(batch.latents, batch.noise, t)
        if batch.perturbed is not None:
            seen = self.path.sample(batch.latents, batch.perturbed, t).x_t
            sample = dataclasses.replace(sample, x_t=seen)
        prediction = denoiser(sample.x_t, sample.t, conditioning)
        error = self._error(prediction, self._target(denoiser, sample, prediction, beside), sample, batch.mask)
        if self.guided is not None and beside.scales is not None:
            error = self.guided.weight(beside.scales) * error
        if batch.mask is not None and self.unmasked_preservation:
            before = denoiser.base(sample.x_t, sample.t, conditioning)
            error = error + self.unmasked_preservation * squared_error(prediction, before, 1 - batch.mask)
        if batch.weights is not None:
            error = batch.weights * error
        if beside.preserved is not None:
            before = denoiser.base(sample.x_t, sample.t, beside.preserved)
            drift = squared_error(denoiser(sample.x_t, sample.t, beside.preserved), before)
            error = error + self.preservation_weight * drift
        return self.weighting(sample.log_snr) * error

    def _target(
        self, denoiser: Denoiser[Given], sample: PathSample, prediction: Tensor, beside: Beside[Given]
    ) -> Tensor:
        """The data's own target, or that which guidance makes of it."""
        if self.guided is None or beside.other is None or beside.scales is None:
            return sample.target
        with torch.no_grad():
            ask = denoiser.base if self.guided.against == "base" else denoiser
            other = ask(sample.x_t, sample.t, beside.other)
            return self.guided(sample.target, prediction, other, beside.scales, sample.log_snr)

    def _error(
        self, prediction: Tensor, target: Tensor, sample: PathSample, mask: Float[Tensor, "b 1 h w"] | None
    ) -> Float[Tensor, " b"]:
        """The distance of each prediction from its target, where the mask counts."""
        counts = None if mask is None else counted(mask, self.unmasked_weight)
        if self.huber is None:
            return squared_error(prediction, target, counts)
        return huber_error(prediction, target, self.huber.at(sample.t, sample.log_snr), counts)
