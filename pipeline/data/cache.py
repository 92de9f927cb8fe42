"""Encoded examples on disk, keyed by content alone: a stale hit is impossible, a changed input is another key.

Latents are kept as the posterior's mean and standard deviation, never as one sample of it. Prompt embeddings are kept
per caption, and the unconditional ones beside them. Encoders are called with batches of one shape, filled up where
there are fewer: a row's bits depend on that shape, but neither on its neighbours nor on its place (tests/data), so an
entry is the same whatever else was missing.
"""

import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

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

VERSION = "5"  # raise it when the meaning of a cached value changes

EncodeImage = Callable[[Float[Tensor, "b 3 h w"]], tuple[Tensor, Tensor]]
EncodeText = Callable[[list[str]], Embeddings]
Looks = tuple[Example, images.View]  # an image, and how it is looked at
Item = TypeVar("Item")


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

    def mask_path(self, example: Example, view: images.View) -> Path:
        """Where the mask of one view is kept, at the size of its latents."""
        of = f"{example.mask_id or example.image_id}\n{example.size}"
        key = digest(f"{VERSION}\nmask\n{of}\n{view.key}\n{self.image_encoder}".encode())
        return self.folder / "masks" / key[:2] / f"{key}.safetensors"

    def text_path(self, caption: str | None) -> Path:
        """Where the embeddings of one caption are kept, or with None the unconditional ones."""
        text = "unconditional" if caption is None else f"caption {caption}"
        key = digest(f"{VERSION}\n{text}\n{self.text_encoder}".encode())
        return self.folder / "text" / key[:2] / f"{key}.safetensors"


def missing_views(cache: Cache, views: Iterable[Looks], options: DataOptions) -> list[Looks]:
    """The views that still have to be encoded, each once, those of one image together."""
    missing: dict[str, dict[Path, Looks]] = {}
    for example, view in views:
        path = cache.latent_path(example, view, options.alpha_background)
        if not path.is_file():
            missing.setdefault(example.image_id, {})[path] = (example, view)
    return [looks for of_image in missing.values() for looks in of_image.values()]


def missing_captions(cache: Cache, captions: Iterable[str | None]) -> list[str | None]:
    """The captions that still have to be encoded, each once."""
    return [caption for caption in dict.fromkeys(captions) if not cache.text_path(caption).is_file()]


def decoded(views: Iterable[Looks], options: DataOptions) -> Iterator[tuple[Looks, Float[Tensor, "3 h w"]]]:
    """What each view shows; an image whose views follow one another is decoded once."""
    for _, of_image in itertools.groupby(views, key=lambda looks: looks[0].image_id):
        picture = None
        for example, view in of_image:
            picture = picture or images.decode(io.BytesIO(example.source.content()), options.alpha_background)
            yield (example, view), pixels.to_pixels(picture, view)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Items in lists of at most `size`."""
    waiting = iter(items)
    while batch := list(itertools.islice(waiting, size)):
        yield batch


def store_latents(
    cache: Cache,
    batch: list[tuple[Looks, Float[Tensor, "3 h w"]]],
    size: int,
    options: DataOptions,
    encode: EncodeImage,
) -> None:
    """Encode at most `size` views at once and keep them.

    Raises ValueError naming every file of which a latent is not finite; the others are kept.
    """
    rows = [row for _, row in batch]
    means, stds = (value.float().cpu() for value in encode(torch.stack(_filled(rows, size))))
    bad = []
    for ((example, view), _), mean, std in zip(batch, means, stds, strict=False):  # without what fills the batch
        if torch.isfinite(mean).all() and torch.isfinite(std).all():
            path = cache.latent_path(example, view, options.alpha_background)
            atomic.write_tensors(path, {"mean": mean, "std": std})
        else:
            bad.append(example.name)
    if bad:
        names = ", ".join(dict.fromkeys(bad))
        raise ValueError(f"{names}: the autoencoder makes non-finite latents of it (half precision overflow?)")


def store_texts(cache: Cache, captions: list[str], size: int, encode: EncodeText) -> None:
    """Encode at most `size` captions at once and keep their embeddings."""
    rows = encode(_filled(captions, size))
    for place, caption in enumerate(captions):
        atomic.write_tensors(cache.text_path(caption), {name: value[place] for name, value in rows.items()})


def store_unconditional(cache: Cache, embeddings: Embeddings) -> None:
    """Keep what guidance compares with, encoded alone as the pipeline does for one prompt."""
    atomic.write_tensors(cache.text_path(None), embeddings)


def _filled(rows: list[Item], size: int) -> list[Item]:
    """As many rows as a batch has: the last one stands for those that are missing."""
    return [*rows, *rows[-1:] * (size - len(rows))]


def load(path: Path) -> dict[str, Tensor]:
    """One cached entry."""
    return load_file(path)
