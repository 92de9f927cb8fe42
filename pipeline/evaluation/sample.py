"""Pictures from a prompt and a seed, through the stock pipeline around the live modules."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline.conditioning import Conditioning

BATCH_PICTURES = 16


@dataclass(frozen=True)
class Shot:
    """One picture to make; what is recorded in index.json is enough to make it again in plain diffusers."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class SampleSettings:
    """How pictures are sampled."""

    guidance_scale: float
    num_inference_steps: int
    resolution: int  # pixels


class Sampler:
    """Draws pictures with encoded prompts, so that no text encoder has to stay in memory."""

    def __init__(self, pipe: Any, encode: Any, null: Conditioning, settings: SampleSettings) -> None:
        self.pipe, self.encode, self.null, self.settings = pipe, encode, null, settings
        pipe.set_progress_bar_config(disable=True)

    def with_guidance(self, guidance_scale: float) -> "Sampler":
        """The same sampler at another guidance scale."""
        return Sampler(self.pipe, self.encode, self.null, replace(self.settings, guidance_scale=guidance_scale))

    @torch.no_grad()
    def draw(self, shots: list[Shot]) -> list[Image.Image]:
        """One picture per shot. Each has its own CPU generator, so none depends on its neighbours."""
        model = getattr(self.pipe, "unet", None) or self.pipe.transformer
        training = model.training
        model.eval()
        pictures: list[Image.Image] = []
        for first in range(0, len(shots), BATCH_PICTURES):
            batch = shots[first : first + BATCH_PICTURES]
            pictures += self.pipe(
                prompt_embeds=torch.stack([self._states(shot.prompt) for shot in batch]),
                negative_prompt_embeds=self.null.tensors["prompt_embeds"].expand(len(batch), -1, -1),
                generator=[torch.Generator().manual_seed(shot.seed) for shot in batch],
                guidance_scale=self.settings.guidance_scale,
                num_inference_steps=self.settings.num_inference_steps,
                height=self.settings.resolution,
                width=self.settings.resolution,
            ).images
        model.train(training)
        return pictures

    def _states(self, prompt: str) -> Tensor:
        states: Tensor = self.encode(prompt)["prompt_embeds"]
        return states
