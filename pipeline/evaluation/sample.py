"""Pictures from a prompt and a seed, through the stock pipeline around the live modules."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import nn

from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.conditioning import Embeddings, stack
from pipeline.families.base import Family
from pipeline.families.meta import has_module
from pipeline.geometry import Size
from pipeline.sampling.guided import Traits, Weaker, guided
from pipeline.sampling.options import GuidanceOptions
from pipeline.sampling.perturbed import perturbed

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
    rescale_betas_zero_snr: bool | None = field(default=None, repr=False)  # whether the schedule ends in pure noise
    guidance: GuidanceOptions = field(default=GuidanceOptions(), repr=False)  # repr: what is kept under it stays found
    weaker: str | None = field(default=None, repr=False)  # the checkpoint that guidance leads away from, not the base

    @property
    def text(self) -> str:
        """The settings for a reader."""
        led = "" if self.guidance.is_usual else f" ({self.guidance.text})"
        return f"Guidance {self.guidance_scale:g}{led}, {self.num_inference_steps} steps, {self.size} pixels"

    @property
    def facts(self) -> dict[str, Any]:
        """All that decides a picture, by name; what is as usual is not named."""
        values = {**dataclasses.asdict(self), **self.guidance.facts}
        del values["guidance"]
        return {name: value for name, value in values.items() if value is not None}


class Sampler:
    """Draws pictures with encoded prompts, so that no text encoder has to stay in memory."""

    def __init__(
        self,
        pipe: Any,
        denoiser: nn.Module,
        encode: Encode,
        settings: SampleSettings,
        *,
        family: type[Family],
        weaker: Weaker | None = None,
    ) -> None:
        self.pipe, self.denoiser, self.encode, self.settings, self.family = pipe, denoiser, encode, settings, family
        self.weaker = weaker
        pipe.set_progress_bar_config(disable=True)

    def with_guidance(self, guidance_scale: float, guidance: GuidanceOptions | None = None) -> "Sampler":
        """The same sampler at another guidance scale, and guided in another way where one is given."""
        kept = self.settings.guidance if guidance is None else guidance
        settings = dataclasses.replace(self.settings, guidance_scale=guidance_scale, guidance=kept)
        return Sampler(self.pipe, self.denoiser, self.encode, settings, family=self.family, weaker=self.weaker)

    def against_base(self) -> "Sampler":
        """The same sampler without a checkpoint to lead away from."""
        settings = dataclasses.replace(self.settings, weaker=None)
        return Sampler(self.pipe, self.denoiser, self.encode, settings, family=self.family)

    def folded(self, adapted: AdaptedModels) -> contextlib.AbstractContextManager[None]:
        """The adapter within the frozen weights while this draws, unless it is drawn without it in between."""
        switches = self.settings.guidance.guidance_against == "base"
        return contextlib.nullcontext() if switches else adapted.folded()

    @torch.no_grad()
    def draw(self, requests: list[SampleRequest]) -> list[Image.Image]:
        """One picture per request. Each has its own CPU generator, so none depends on its neighbours."""
        pictures: list[Image.Image] = []
        batch_size = pictures_at_once(self.settings.size)
        with _evaluating(self.denoiser):
            for first in range(0, len(requests), batch_size):
                pictures += self._draw(requests[first : first + batch_size])
        return pictures

    def _draw(self, batch: list[SampleRequest]) -> list[Image.Image]:
        settings, family = self.settings, self.family
        with guided(
            self.pipe,
            self.denoiser,
            settings.guidance,
            settings.guidance_scale,
            seeds=[request.seed for request in batch],
            traits=Traits(family.negates_velocity, family.asks_in_turn, family.renormalises_guidance),
            weaker=self._weaker(),
        ) as scale:
            pictures: list[Image.Image] = self.pipe(
                **self._embeddings(batch),
                generator=[torch.Generator().manual_seed(request.seed) for request in batch],
                guidance_scale=scale,
                num_inference_steps=settings.num_inference_steps,
                height=settings.size.height,
                width=settings.size.width,
            ).images
        return pictures

    def _weaker(self) -> Weaker | None:
        """What guidance leads away from; None for the unconditional prediction, which the pipeline asks for itself."""
        against = self.settings.guidance.guidance_against
        if against == "perturbed":
            return lambda: perturbed(self.denoiser, self.family.perturbed_attention)
        if against == "unconditional":
            return None
        return self.weaker or AdaptedModels({self.family.denoiser: self.denoiser}).disabled

    def _embeddings(self, requests: list[SampleRequest]) -> dict[str, Any]:
        """The embeddings by the names the pipeline takes them by, and the unconditional ones where it guides."""
        found = {**stack([self.encode(request.prompt) for request in requests]).tensors}
        if not self.family.supports_cfg:
            return found
        others = stack([self.encode(None)] * len(requests)).tensors
        # without a word of their own: some pipelines have "" as default, and refuse a text and its embeddings together
        return found | {"negative_prompt": None} | {f"negative_{name}": value for name, value in others.items()}


def guidance_clashes(guidance: GuidanceOptions, family: Family, *, is_flow: bool) -> list[str]:
    """What of the guidance a model has no use for, one sentence each."""
    pattern = family.perturbed_attention
    wanted = guidance.guidance_against == "perturbed" and pattern
    return guidance.clashes(
        family.name,
        has_null=family.supports_cfg,
        is_flow=is_flow,
        can_perturb=bool(wanted) and has_module(family.source, family.denoiser, pattern),
        renormalises=family.renormalises_guidance,
    )


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
