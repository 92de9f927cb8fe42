"""The method, on one screen: from a batch to the loss of each example."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.adapter.adapted import Adapted
from pipeline.adapter.texts import LiveTexts
from pipeline.data.loader import Batch
from pipeline.families.base import Family
from pipeline.objective.losses import squared_error
from pipeline.objective.paths import DiffusionPath
from pipeline.objective.weighting import Weighting


@dataclass(frozen=True)
class Method:
    """What turns a batch into losses: the models and the maths."""

    family: Family
    adapted: Adapted
    texts: LiveTexts | None  # where text encoders learn
    path: DiffusionPath
    weighting: Weighting


def training_loss(method: Method, batch: Batch, device: torch.device, dtype: torch.dtype) -> Float[Tensor, " b"]:
    """Latents -> noise -> prediction -> weighted error of each example (Ho et al. 2020, eq. 14, with weights)."""
    t = method.path.time(batch.u)
    noised = method.path.noise(batch.latents.to(device), batch.noise.to(device), t.to(device))
    conditioning = batch.conditioning.to(device, dtype)
    if method.texts is not None:
        conditioning = conditioning.joined(method.texts.learning(batch.captions, batch.rows).to(device, dtype))
    prediction = method.family.denoise(method.adapted.denoiser, noised.x_t.to(dtype), noised.t, conditioning)
    return method.weighting(noised.log_snr) * squared_error(prediction, noised.target)
