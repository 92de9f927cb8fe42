"""The weights of the loss by noise level, as functions of log-SNR."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.objective.options import ObjectiveOptions
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


@dataclass(frozen=True)
class CosMap:
    """2 / (pi (1 - 2t + 2t^2)) on velocities (Esser et al. 2024, eq. 21), with t / (1 - t) = exp(-log_snr / 2)."""

    def __call__(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Weights in [2 / pi, 4 / pi], 1 on average."""
        t = torch.sigmoid(-log_snr / 2)
        return 2 / (math.pi * (1 - 2 * t + 2 * t.square()))


@dataclass(frozen=True)
class InverseSquare:
    """1 / t^2 on velocities, which diffusers calls sigma_sqrt; no weight is above that of t = 1 / 1000."""

    def __call__(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Weights in [1, 1e6]."""
        return torch.sigmoid(-log_snr / 2).clamp(min=1e-3).pow(-2)


Weighting = Uniform | MinSNR | CosMap | InverseSquare


def build_weighting(options: ObjectiveOptions, prediction: Prediction) -> Weighting:
    """The weighting that --snr_gamma or --weighting_scheme asks for."""
    if options.snr_gamma is not None:
        return MinSNR(options.snr_gamma, prediction)
    if options.weighting_scheme == "cosmap":
        return CosMap()
    return InverseSquare() if options.weighting_scheme == "sigma_sqrt" else Uniform()
