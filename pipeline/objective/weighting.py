"""What each noise level weighs in the loss, as a function of log-SNR."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.objective.paths import Prediction


@dataclass(frozen=True)
class Uniform:
    """Every noise level weighs 1 on the model's own target."""

    def __call__(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Weights of 1."""
        return torch.ones_like(log_snr)


@dataclass(frozen=True)
class MinSNR:
    """Min-SNR-gamma (Hang et al. 2023, eq. 8), on the scale of diffusers' scripts.

    With S the signal-to-noise ratio: min(S, gamma) / S on noise targets, min(S, gamma) / (S + 1) on
    v targets. The first is written as min(1, gamma / S), which is finite at S = 0.
    """

    gamma: float
    prediction: Prediction

    def __call__(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Weights in [0, max(1, gamma)]."""
        snr = log_snr.exp()
        if self.prediction == "epsilon":
            return (self.gamma / snr).clamp(max=1.0)
        return snr.clamp(max=self.gamma) / (snr + 1)


def weighting_for(snr_gamma: float | None, prediction: Prediction) -> Uniform | MinSNR:
    """The weighting that --snr_gamma asks for."""
    return Uniform() if snr_gamma is None else MinSNR(snr_gamma, prediction)
