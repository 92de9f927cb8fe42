"""Encoded examples on disk, keyed by content alone: a stale hit is impossible, a changed input is another key.

Latents are kept as the posterior's mean and standard deviation, never as one sample of it. Prompt embeddings are kept
per caption, and the unconditional ones beside them. Encoders are called with batches of one shape, filled up where
there are fewer: a row's bits depend on that shape, but neither on its neighbours nor on its place (tests/data), so an
entry is the same whatever else was missing.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.conditioning import Embeddings
from pipeline.data import images, pixels
from pipeline.data.manifest import Example
from pipeline.data.shards import Shards
from pipeline.hashing import digest

VERSION = "6"  # raise it when the meaning of a cached value changes

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

    @functools.cached_property
    def latents(self) -> Shards:
        """The latents of views of images."""
        return Shards(self.folder / "latents" / self._of(self.image_encoder))

    @functools.cached_property
    def masks(self) -> Shards:
        """The masks of views, at the size of their latents."""
        return Shards(self.folder / "masks" / self._of(self.image_encoder))

    @functools.cached_property
    def texts(self) -> Shards:
        """The embeddings of captions."""
        return Shards(self.folder / "text" / self._of(self.text_encoder))

    def _of(self, encoder: str) -> str:
        return digest(f"{VERSION}\n{encoder}".encode())[:16]

    def flush(self) -> None:
        """Write what waits for a shard to fill."""
        for shards in (self.latents, self.masks, self.texts):
            shards.flush()

    def latents_of(self, example: Example, view: images.View) -> dict[str, Tensor]:
        """{'mean': [c h w], 'std': [c h w]} of one view of one image. Raises KeyError where it was never encoded."""
        return self.latents.load(latent_key(example, view))

    def mask_of(self, example: Example, view: images.View) -> Tensor:
        """The mask of one view, [1 h w]. Raises KeyError where it was never worked out."""
        return self.masks.load(mask_key(example, view))["mask"]

    def text_of(self, caption: str | None) -> Embeddings:
        """The embeddings of a caption, or with None the unconditional ones. Raises KeyError as the others do."""
        return self.texts.load(text_key(caption))


def latent_key(example: Example, view: images.View) -> str:
    """By which the latents of one view of one image are kept."""
    return digest(f"{example.image_id}\n{view.key}\n{example.options.alpha_background}".encode())


def mask_key(example: Example, view: images.View) -> str:
    """By which the mask of one view is kept."""
    if not example.options.masked_loss:
        return digest(f"all of {view.size}".encode())
    return digest(f"{example.mask_id or example.image_id}\n{example.size}\n{view.key}".encode())


def text_key(caption: str | None) -> str:
    """By which the embeddings of one caption are kept, or with None the unconditional ones."""
    return digest(("unconditional" if caption is None else f"caption {caption}").encode())


def missing_views(cache: Cache, views: Iterable[Looks]) -> list[Looks]:
    """The views that still have to be encoded, each once, those of one image together."""
    missing: dict[str, dict[str, Looks]] = {}
    cache.latents.look()
    for example, view in views:
        key = latent_key(example, view)
        if key not in cache.latents:
            missing.setdefault(example.image_id, {})[key] = (example, view)
    return [looks for of_image in missing.values() for looks in of_image.values()]


def missing_captions(cache: Cache, captions: Iterable[str | None]) -> list[str | None]:
    """The captions that still have to be encoded, each once."""
    cache.texts.look()
    return [caption for caption in dict.fromkeys(captions) if text_key(caption) not in cache.texts]


def decoded(views: Iterable[Looks]) -> Iterator[tuple[Looks, Float[Tensor, "3 h w"]]]:
    """What each view shows; an image whose views follow one another is decoded once."""
    for _, of_image in itertools.groupby(views, key=lambda looks: (looks[0].image_id, looks[0].options)):
        picture = None
        for example, view in of_image:
            picture = picture or example.picture()
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
            cache.latents.put(latent_key(example, view), {"mean": mean, "std": std})
        else:
            bad.append(example.name)
    if bad:
        names = ", ".join(dict.fromkeys(bad))
        raise ValueError(f"{names}: the autoencoder makes non-finite latents of it (half precision overflow?)")


def store_texts(cache: Cache, captions: list[str], size: int, encode: EncodeText) -> None:
    """Encode at most `size` captions at once and keep their embeddings."""
    rows = encode(_filled(captions, size))
    for place, caption in enumerate(captions):
        cache.texts.put(text_key(caption), {name: value[place] for name, value in rows.items()})


def store_unconditional(cache: Cache, embeddings: Embeddings) -> None:
    """Keep what guidance compares with, encoded alone as the pipeline does for one prompt."""
    cache.texts.put(text_key(None), embeddings)


def _filled(rows: list[Item], size: int) -> list[Item]:
    """As many rows as a batch has: the last one stands for those that are missing."""
    return [*rows, *rows[-1:] * (size - len(rows))]
