"""Pictures from a prompt and a seed, through the stock pipeline around the live modules."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import nn

from pipeline.conditioning import Embeddings, stack
from pipeline.geometry import Size

MAX_PICTURES, MAX_PIXELS = 16, 4 * 512 * 512  # of one batch: as many small pictures, or at least one large one


Encode = Callable[[str | None], Embeddings]  # a prompt to its embeddings, None to the unconditional ones


@dataclass(frozen=True)
class SampleRequest:
    """One picture to make; what is recorded in index.json is enough to make it again in plain diffusers."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class SampleSettings:
    """How pictures are sampled."""

    guidance_scale: float
    num_inference_steps: int
    size: Size
    max_sequence_length: int | None = None  # tokens of T5 or Gemma, where they are not the pipeline's own number
    prompt_chunks: int | None = field(default=None, repr=False)  # in which CLIP reads, where it is not one
    clip_skip: int | None = field(default=None, repr=False)  # layers of CLIP that are left out, where some are


class Sampler:
    """Draws pictures with encoded prompts, so that no text encoder has to stay in memory."""

    def __init__(
        self, pipe: Any, denoiser: nn.Module, encode: Encode, settings: SampleSettings, *, supports_cfg: bool
    ) -> None:
        self.pipe, self.denoiser, self.encode, self.settings = pipe, denoiser, encode, settings
        self.supports_cfg = supports_cfg
        pipe.set_progress_bar_config(disable=True)

    def with_guidance(self, guidance_scale: float) -> "Sampler":
        """The same sampler at another guidance scale."""
        settings = replace(self.settings, guidance_scale=guidance_scale)
        return Sampler(self.pipe, self.denoiser, self.encode, settings, supports_cfg=self.supports_cfg)

    @torch.no_grad()
    def draw(self, requests: list[SampleRequest]) -> list[Image.Image]:
        """One picture per request. Each has its own CPU generator, so none depends on its neighbours."""
        pictures: list[Image.Image] = []
        batch_size = pictures_at_once(self.settings.size)
        with _evaluating(self.denoiser):
            for first in range(0, len(requests), batch_size):
                batch = requests[first : first + batch_size]
                pictures += self.pipe(
                    **self._embeddings(batch),
                    generator=[torch.Generator().manual_seed(request.seed) for request in batch],
                    guidance_scale=self.settings.guidance_scale,
                    num_inference_steps=self.settings.num_inference_steps,
                    height=self.settings.size.height,
                    width=self.settings.size.width,
                ).images
        return pictures

    def _embeddings(self, requests: list[SampleRequest]) -> dict[str, Any]:
        """The embeddings by the names the pipeline takes them by, and the unconditional ones where it guides."""
        found = {**stack([self.encode(request.prompt) for request in requests]).tensors}
        if not self.supports_cfg:
            return found
        others = stack([self.encode(None)] * len(requests)).tensors
        # without a word of their own: some pipelines have "" as default, and refuse a text and its embeddings together
        return found | {"negative_prompt": None} | {f"negative_{name}": value for name, value in others.items()}


def pictures_at_once(size: Size) -> int:
    """How many pictures of a size are drawn in one batch."""
    return max(1, min(MAX_PICTURES, MAX_PIXELS // size.area))


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
