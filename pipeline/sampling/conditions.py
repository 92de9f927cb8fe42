"""Condition-annealed sampling: a caption's embeddings with noise in them while a picture is all noise itself."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline import rng

CLEAR, BLURRED = 0.6, 0.9  # times: below the first a caption is as written, above the second it is all noise
NAMES = ("encoder_hidden_states", "pooled_projections", "text_embeds")  # of a denoiser's arguments: captions


def signal_at(time: float) -> float:
    """gamma(t), the share of a caption in its embeddings (Sadat et al. 2023, eq. 7)."""
    return min(1.0, max(0.0, (BLURRED - time) / (BLURRED - CLEAR)))


def annealed(
    states: Float[Tensor, "b ..."], time: float, scale: float, noise: Float[Tensor, "b ..."]
) -> Float[Tensor, "b ..."]:
    """sqrt(gamma) c + s sqrt(1 - gamma) n, with mean and deviation of each picture's c (eq. 8 and 9, psi = 1)."""
    signal = signal_at(time)
    if signal == 1 or scale == 0:
        return states
    own = states.float()
    mixed = math.sqrt(signal) * own + scale * math.sqrt(1 - signal) * noise
    over = tuple(range(1, own.ndim))
    unit = (mixed - mixed.mean(over, keepdim=True)) / mixed.std(over, keepdim=True)
    return (unit * own.std(over, keepdim=True) + own.mean(over, keepdim=True)).to(states.dtype)


def noise_for(seeds: list[int], step: int, name: str, like: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """Each picture's own noise for a step and an argument, whatever it is drawn together with."""
    rows = [rng.normal(seed, step, name, "caption noise", tuple(like.shape[1:])) for seed in seeds]
    return torch.stack(rows).to(like.device)
