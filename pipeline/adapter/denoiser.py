"""The model that predicts, with the adapter and without it: what every objective is computed with."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.conditioning import Conditioning
from pipeline.families.base import Family


@dataclass(frozen=True)
class AdaptedDenoiser:
    """A family's denoiser on latents in float32, whatever it computes in."""

    family: Family
    adapted: AdaptedModels
    dtype: torch.dtype  # of the frozen weights

    def __call__(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The prediction of the adapted model at time t."""
        return self.family.denoise(self.adapted.denoiser, x_t.to(self.dtype), t, conditioning)

    def base(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The prediction of the base model, without gradient."""
        with torch.no_grad(), self.adapted.disabled():
            return self(x_t, t, conditioning)

    def num_tokens(self, latents: Float[Tensor, "b c h w"]) -> int:
        """How many tokens it sees of each picture."""
        return self.family.num_tokens(latents)
