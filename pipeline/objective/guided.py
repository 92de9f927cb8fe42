"""Guidance trained into the model: targets that weigh the condition more than the data do.

Sampling with classifier-free guidance w goes from the unconditional prediction u past the conditional one c, to
u + w (c - u), at two predictions a step. A model that learns this very point answers it with one. Three ways of
saying so have been published; all have the fixed point u + s (c - u), with s the scale that is asked for:

    model guidance   target + (1 - 1/s) (prediction - u)     Tang et al. 2025 (arXiv 2502.12154), w = 1 - 1/s
    cfg              u + s_t (target - u)                    s_t falls to 1 with the noise, 1 + (s - 1) sigma, sigma
                                                             as flows count it: noise of noise and signal
    contrastive      n + s (target - n), loss over s         Stoica et al. 2025 (arXiv 2506.05350), lambda = 1 - 1/s,
                                                             n predicted for a wrong caption at the same point

The gradient of model guidance is that of cfg without its falling scale, divided by s: what differs is the step.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.objective.guided_options import Against, GuidedOptions, Kind


@dataclass(frozen=True)
class GuidedTarget:
    """What is learnt in place of the data's own target; `scales` are of each example, 1 where it is the data's."""

    kind: Kind
    against: Against

    def __call__(
        self,
        target: Float[Tensor, "b c h w"],
        prediction: Float[Tensor, "b c h w"],
        other: Float[Tensor, "b c h w"],
        scales: Float[Tensor, " b"],
        log_snr: Float[Tensor, " b"],
    ) -> Float[Tensor, "b c h w"]:
        """The target, without gradient. `other` is predicted without the caption, or for a wrong one."""
        target, prediction, other = target.float(), prediction.detach().float(), other.float()
        if self.kind == "model_guidance":
            return target + _wide(1 - 1 / scales) * (prediction - other)
        return other + _wide(self.scale_at(scales, log_snr)) * (target - other)

    def weight(self, scales: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """What the squared error counts."""
        return 1 / scales if self.kind == "contrastive" else torch.ones_like(scales)

    def unguided(
        self,
        prediction: Float[Tensor, "b c h w"],
        other: Float[Tensor, "b c h w"],
        scale: float,
        log_snr: Float[Tensor, " b"],
    ) -> Float[Tensor, "b c h w"]:
        """What the model would predict without the guidance it has learnt: comparable with the data's own target."""
        scales = self.scale_at(torch.full_like(log_snr, scale), log_snr)
        return other.float() + (prediction.float() - other.float()) / _wide(scales)

    def scale_at(self, scales: Float[Tensor, " b"], log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The scale that is learnt at a noise level; sigmoid(-log_snr / 2) is sigma / (alpha + sigma)."""
        if self.kind != "cfg":
            return scales
        return 1 + (scales - 1) * torch.sigmoid(-log_snr / 2)


def guided_target(options: GuidedOptions) -> GuidedTarget | None:
    """What the options ask for; None for the data's own target."""
    kind = options.guided_target
    return None if kind is None else GuidedTarget(kind, options.guided_target_against)


def _wide(values: Float[Tensor, " b"]) -> Float[Tensor, "b 1 1 1"]:
    return values[:, None, None, None]
