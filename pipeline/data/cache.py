"""Encoded examples on disk, keyed by content alone: a stale hit is impossible, a changed input is another key.

Latents are kept as the posterior's mean and standard deviation, never as one sample of it. Prompt embeddings are kept
per caption, and the unconditional ones beside them.
"""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from pipeline import atomic
from pipeline.conditioning import Embeddings
from pipeline.data import images, pixels
from pipeline.data.manifest import Example
from pipeline.data.options import DataOptions
from pipeline.hashing import digest

VERSION = "4"  # raise it when the meaning of a cached value changes

EncodeImage = Callable[[Float[Tensor, "b 3 h w"]], tuple[Tensor, Tensor]]
EncodeText = Callable[[str | None], Embeddings]


@dataclass(frozen=True)
class Cache:
    """Where encoded examples lie, and the encoders they were made with."""

    folder: Path
    image_encoder: str  # content hash of the autoencoder and its precision
    text_encoder: str  # the same of tokenizer and text encoders

    def latent_path(self, example: Example, view: images.View, alpha_background: str) -> Path:
        """Where the latents of one view of one image are kept."""
        key = digest(f"{VERSION}\n{example.image_id}\n{view.key}\n{alpha_background}\n{self.image_encoder}".encode())
        return self.folder / "latents" / key[:2] / f"{key}.safetensors"

    def text_path(self, caption: str | None) -> Path:
        """Where the embeddings of one caption are kept, or with None the unconditional ones."""
        text = "unconditional" if caption is None else f"caption {caption}"
        key = digest(f"{VERSION}\n{text}\n{self.text_encoder}".encode())
        return self.folder / "text" / key[:2] / f"{key}.safetensors"


def missing_views(
    cache: Cache, views: Iterable[tuple[Example, images.View]], options: DataOptions
) -> list[tuple[Example, images.View]]:
    """The views that still have to be encoded, each once."""
    missing: dict[Path, tuple[Example, images.View]] = {}
    for example, view in views:
        path = cache.latent_path(example, view, options.alpha_background)
        if not path.is_file():
            missing[path] = (example, view)
    return list(missing.values())


def missing_captions(cache: Cache, captions: Iterable[str | None]) -> list[str | None]:
    """The captions that still have to be encoded, each once."""
    return [caption for caption in dict.fromkeys(captions) if not cache.text_path(caption).is_file()]


def store_latents(cache: Cache, example: Example, view: images.View, options: DataOptions, encode: EncodeImage) -> None:
    """Encode one view and keep it. Raises ValueError naming the file if a latent is not finite."""
    picture = images.decode(io.BytesIO(example.source.content()), options.alpha_background)
    mean, std = (value[0].float().cpu() for value in encode(pixels.to_pixels(picture, view)[None]))
    if not (torch.isfinite(mean).all() and torch.isfinite(std).all()):
        raise ValueError(f"{example.name}: the autoencoder makes non-finite latents of it (half precision overflow?)")
    path = cache.latent_path(example, view, options.alpha_background)
    atomic.write_tensors(path, {"mean": mean, "std": std})


def store_text(cache: Cache, caption: str | None, encode: EncodeText) -> None:
    """Encode one caption and keep its embeddings."""
    atomic.write_tensors(cache.text_path(caption), encode(caption))


def load(path: Path) -> dict[str, Tensor]:
    """One cached entry."""
    return load_file(path)
