"""What the files here ask of a family: its denoiser, a caption's conditioning, latents, and the calls of a pipeline."""

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pipeline.conditioning import Conditioning, Embeddings, stack
from pipeline.geometry import Size, whole

PROMPT, SIDE = "a red square", 64  # pixels


def denoiser_of(family, dtype=torch.float32):
    return getattr(family.load(family.denoiser, dtype=dtype), family.denoiser).eval()


def conditioning_of(family, *captions, geometry=None) -> Conditioning:
    size = family.size_states(geometry or whole(Size.square(SIDE)))
    return stack([{**embedded, **size} for embedded in _embedded(family, captions)])


@functools.lru_cache(maxsize=8)
@torch.no_grad()
def _embedded(family, captions) -> list[Embeddings]:
    """Read once for all tests of a family, of which each gets a copy, stacked."""
    encoders = family.load_encoders()
    return [family.embed(encoders, caption) for caption in captions]


def latents(family, pixels=SIDE, count=2, height=None) -> Tensor:
    channels, rows, columns = family.latent_shape(Size.square(pixels))
    return torch.randn(count, channels, height or rows, columns, generator=torch.Generator().manual_seed(0))


@contextmanager
def listening(model) -> Iterator[list[dict[str, Any]]]:
    """The arguments of every call of a model, by name."""
    names = list(inspect.signature(model.forward).parameters)
    calls: list[dict[str, Any]] = []

    def note(_, args, kwargs):
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        calls.append({**given, **(given.get("added_cond_kwargs") or {})})

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def of_side(pipe) -> dict[str, Any]:
    """What asks for latents of SIDE itself, also where a pipeline would round it to the sizes it was trained at."""
    asked = {"height": SIDE, "width": SIDE, "output_type": "latent"}
    binning = "use_resolution_binning"
    return asked | ({binning: False} if binning in inspect.signature(pipe.__call__).parameters else {})


def tensors_of(call: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in call.items() if isinstance(value, Tensor)}
