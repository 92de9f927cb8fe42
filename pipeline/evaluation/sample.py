"""Pictures from a prompt and a seed, through the stock pipeline around the live modules."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline.conditioning import stack

MAX_PICTURES, MAX_PIXELS = 16, 4 * 512 * 512  # of one batch: as many small pictures, or at least one large one


Encode = Callable[[str | None], dict[str, Tensor]]  # a prompt, or None for the null, to its text states


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
    max_sequence_length: int | None = None  # tokens of T5 or Gemma, where they are not the pipeline's own number


class Sampler:
    """Draws pictures with encoded prompts, so that no text encoder has to stay in memory."""

    def __init__(self, pipe: Any, encode: Encode, settings: SampleSettings, *, uses_null: bool) -> None:
        self.pipe, self.encode, self.settings, self.uses_null = pipe, encode, settings, uses_null
        pipe.set_progress_bar_config(disable=True)

    def with_guidance(self, guidance_scale: float) -> "Sampler":
        """The same sampler at another guidance scale."""
        settings = replace(self.settings, guidance_scale=guidance_scale)
        return Sampler(self.pipe, self.encode, settings, uses_null=self.uses_null)

    @torch.no_grad()
    def draw(self, shots: list[Shot]) -> list[Image.Image]:
        """One picture per shot. Each has its own CPU generator, so none depends on its neighbours."""
        model = getattr(self.pipe, "unet", None) or self.pipe.transformer
        training = model.training
        model.eval()
        pictures: list[Image.Image] = []
        size = max(1, min(MAX_PICTURES, MAX_PIXELS // self.settings.resolution**2))
        for first in range(0, len(shots), size):
            batch = shots[first : first + size]
            pictures += self.pipe(
                **self._states(batch),
                generator=[torch.Generator().manual_seed(shot.seed) for shot in batch],
                guidance_scale=self.settings.guidance_scale,
                num_inference_steps=self.settings.num_inference_steps,
                height=self.settings.resolution,
                width=self.settings.resolution,
            ).images
        model.train(training)
        return pictures

    def _states(self, shots: list[Shot]) -> dict[str, Tensor | None]:
        """The text states by the names the pipeline takes them by, and the null where it compares with one."""
        states: dict[str, Tensor | None] = {**stack([self.encode(shot.prompt) for shot in shots]).tensors}
        if not self.uses_null:
            return states
        null = stack([self.encode(None)] * len(shots)).tensors
        # without a word of their own: some pipelines have "" as default, and refuse a text and its states together
        return states | {"negative_prompt": None} | {f"negative_{name}": value for name, value in null.items()}
