"""Encoded examples on disk, keyed by content alone: a stale hit is impossible, a changed input is another key.

Latents are kept as the posterior's mean and standard deviation, never as one draw of it. Text
states are kept per caption, and those of the null condition beside them.
"""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from pipeline import atomic, rng
from pipeline.data import images, pixels
from pipeline.data.manifest import Example
from pipeline.data.options import DataOptions
from pipeline.hashing import digest

VERSION = "2"  # raise it when the meaning of a cached value changes

EncodeImage = Callable[[Float[Tensor, "b 3 h w"]], tuple[Tensor, Tensor]]
EncodeText = Callable[[str | None], dict[str, Tensor]]


@dataclass(frozen=True)
class Cache:
    """Where encoded examples lie, and the encoders they were made with."""

    folder: Path
    image_encoder: str  # content hash of the autoencoder and its precision
    text_encoder: str  # the same of tokenizer and text encoders

    def latent_path(self, example: Example, view: images.View, alpha_background: str) -> Path:
        """Where the latents of one view of one image are kept."""
        key = digest(f"{VERSION}\n{example.image_id}\n{view}\n{alpha_background}\n{self.image_encoder}".encode())
        return self.folder / "latents" / key[:2] / f"{key}.safetensors"

    def text_path(self, caption: str | None) -> Path:
        """Where the text states of one caption are kept; None is the null condition."""
        said = "null" if caption is None else f"caption {caption}"
        key = digest(f"{VERSION}\n{said}\n{self.text_encoder}".encode())
        return self.folder / "text" / key[:2] / f"{key}.safetensors"


def view_of(example: Example, variant: int, seed: int, resolution: int, options: DataOptions) -> images.View:
    """The crop and flip of one of an image's views; the views are the same in every epoch and resume."""
    left, top, flip = 0.5, 0.5, False
    if not options.center_crop:
        left = rng.uniform(seed, variant, example.id, "crop left")
        top = rng.uniform(seed, variant, example.id, "crop top")
    if options.random_flip:
        flip = rng.uniform(seed, variant, example.id, "flip") < 0.5
    if example.width == example.height:
        left, top = 0.5, 0.5  # nothing to choose: let the views share one entry
    return images.View(resolution, options.image_interpolation_mode, left, top, flip)


def centre_view(resolution: int, options: DataOptions) -> images.View:
    """The view that validation looks at: nothing of it is left to chance."""
    return images.View(resolution, options.image_interpolation_mode, 0.5, 0.5, False)


def variant_of(example: Example, epoch: int, seed: int, options: DataOptions) -> int:
    """Which of its views an example shows in an epoch."""
    return rng.integer(seed, epoch, example.id, "variant", options.variants)


def caption_in(example: Example, epoch: int, seed: int) -> str:
    """Which of its captions an example shows in an epoch."""
    if len(example.captions) == 1:
        return example.caption
    return example.captions[rng.integer(seed, epoch, example.id, "caption", len(example.captions))]


def views_of(example: Example, seed: int, resolution: int, options: DataOptions) -> list[images.View]:
    """The different views a run shows of an image; fewer than the variants where chance has nothing to choose."""
    views = {view_of(example, variant, seed, resolution, options) for variant in range(options.variants)}
    return sorted(views, key=repr)


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
    """Encode one caption and keep its text states."""
    atomic.write_tensors(cache.text_path(caption), encode(caption))


def load(path: Path) -> dict[str, Tensor]:
    """One cached entry."""
    return load_file(path)
