"""The method, on one screen: from a batch to the loss of each example."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.data.loader import Batch
from pipeline.families.base import Family
from pipeline.objective.losses import squared_error
from pipeline.objective.paths import DiffusionPath
from pipeline.objective.weighting import Weighting


def training_loss(
    family: Family,
    denoiser: Any,
    path: DiffusionPath,
    weighting: Weighting,
    batch: Batch,
    device: torch.device,
    dtype: torch.dtype,
) -> Float[Tensor, " b"]:
    """Latents -> noise -> prediction -> weighted error of each example (Ho et al. 2020, eq. 14, with weights)."""
    t = path.time(batch.u)
    noised = path.noise(batch.latents.to(device), batch.noise.to(device), t.to(device))
    conditioning = batch.conditioning.to(device, dtype)
    prediction = family.denoise(denoiser, noised.x_t.to(dtype), noised.t, conditioning)
    return weighting(noised.log_snr) * squared_error(prediction, noised.target)
