"""The weights of the loss by noise level, as functions of log-SNR."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.objective.options import ObjectiveOptions, SNRKind
from pipeline.objective.paths import DiffusionPath, Prediction

GAMMAS: dict[SNRKind, float] = {"min_snr": 5.0, "soft_min_snr": 5.0, "p2": 1.0, "debiased": 0.0}  # as published
FARTHEST = math.log(1000.0)  # of log-SNR, to either side, where S^-1/2 is cut
LARGEST = 20.0  # of log-SNR, so that S is finite
NUM_LEVELS = 10_000  # over which the mean weight is taken


@dataclass(frozen=True)
class Uniform:
    """Every noise level weighs 1 on the model's own target."""

    def __call__(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Weights of 1."""
        return torch.ones_like(log_snr)


@dataclass(frozen=True)
class SNRWeights:
    """Weights published for noise targets, carried over to the model's own, so that one denoiser has one loss.

    With S the signal-to-noise ratio, on noise targets: min-SNR min(1, gamma / S) (Hang et al. 2023, eq. 8), its soft
    form gamma / (S + gamma) (Crowson et al. 2024), P2 (1 + S)^-gamma (Choi et al. 2022, eq. 8 with k = 1), debiased
    S^-1/2 (Yu et al. 2023, arXiv 2310.08442). Squared errors of one denoiser are related by
    L_eps = S L_x0 = S / (1 + S) L_v = (1 - t)^2 L_flow. `floor` is added to the weight in units of x_0: where a
    schedule ends in pure noise, its end would else weigh nothing on v or x_0 (as in diffusers' scripts).
    """

    kind: SNRKind
    gamma: float
    prediction: Prediction
    floor: float = 0.0

    def __call__(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Weights from 0 on, finite for every SNR."""
        snr = log_snr.clamp(max=LARGEST).exp()
        if self.kind == "min_snr":
            on_noise = (self.gamma / snr).clamp(max=1.0)
        elif self.kind == "soft_min_snr":
            on_noise = self.gamma / (snr + self.gamma)
        elif self.kind == "p2":
            on_noise = (1 + snr) ** -self.gamma
        else:
            on_noise = (-log_snr.clamp(-FARTHEST, FARTHEST) / 2).exp()
        if self.prediction == "epsilon":
            return on_noise
        if self.prediction == "v_prediction":
            return on_noise * torch.sigmoid(log_snr) + self.floor * torch.sigmoid(-log_snr)
        if self.prediction == "sample":
            return on_noise * snr + self.floor
        return on_noise * torch.sigmoid(log_snr / 2).square()


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


@dataclass(frozen=True)
class Normalized:
    """Weights over their mean: so that another weighting is not another learning rate."""

    weighting: "Uniform | SNRWeights | CosMap | InverseSquare"
    mean: float

    def __call__(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Weights that are 1 on average over the times that are trained on."""
        return self.weighting(log_snr) / self.mean


Weighting = Uniform | SNRWeights | CosMap | InverseSquare | Normalized


def build_weighting(options: ObjectiveOptions, path: DiffusionPath, num_tokens: int) -> Weighting:
    """The weighting that the options ask for; its mean, where it is wanted, for pictures of so many tokens."""
    found = _weighting(options, path)
    if not options.normalize_weights:
        return found
    u = (torch.arange(NUM_LEVELS, dtype=torch.float64) + 0.5) / NUM_LEVELS
    return Normalized(found, found(path.log_snr(path.time(u, num_tokens))).mean().item())


def _weighting(options: ObjectiveOptions, path: DiffusionPath) -> Uniform | SNRWeights | CosMap | InverseSquare:
    kind = options.snr_weighting
    if kind is not None:
        gamma = GAMMAS[kind] if options.snr_gamma is None else options.snr_gamma
        ends_in_noise = path.log_snr(torch.ones(1) * path.last).isneginf().item()
        floor = 1.0 if ends_in_noise and path.prediction in ("v_prediction", "sample") else 0.0
        return SNRWeights(kind, gamma, path.prediction, floor)
    if options.weighting_scheme == "cosmap":
        return CosMap()
    return InverseSquare() if options.weighting_scheme == "sigma_sqrt" else Uniform()
