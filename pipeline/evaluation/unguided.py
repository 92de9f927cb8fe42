"""What a model that learnt guidance would predict without it, so that its loss can be compared with the data's."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pipeline.adapter.denoiser import AdaptedDenoiser
from pipeline.conditioning import Conditioning, Embeddings, stack
from pipeline.objective.guided import GuidedTarget
from pipeline.objective.paths import DiffusionPath


@dataclass(frozen=True)
class Unguided:
    """Undoes u + s (c - u) with the unconditional prediction u, which also stands for the mean of wrong captions'.

    The plain loss would grow the better the guidance is learnt, and the best checkpoint by it would be the first.
    """

    denoiser: AdaptedDenoiser
    target: GuidedTarget
    scale: float
    path: DiffusionPath
    unconditional: Embeddings

    def __call__(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The prediction at time t, with the learnt guidance taken out."""
        others = stack([self.unconditional] * len(x_t)).to(x_t.device, self.denoiser.dtype)
        ask = self.denoiser.base if self.target.against == "base" else self.denoiser
        other = ask(x_t, t, conditioning.joined(others))
        return self.target.unguided(self.denoiser(x_t, t, conditioning), other, self.scale, self.path.log_snr(t))
