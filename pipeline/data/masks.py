"""Masks: which part of a picture the loss looks at, from a file beside it or from its transparency."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from pipeline.data import cache as caches
from pipeline.data import images, pixels
from pipeline.data.manifest import Example
from pipeline.geometry import Size

LatentOf = Callable[[Size], tuple[int, int]]


def mask_of(example: Example, view: images.View, latent: tuple[int, int]) -> Float[Tensor, "1 h w"]:
    """The share of each latent (height, width) that counts, in [0, 1]: by area, cut and mirrored as the picture is.

    Raises ValueError for a picture without anything to look at.
    """
    source, mask = example.source, example.mask
    if not example.options.masked_loss:
        return torch.ones(1, *latent)
    found = images.alpha_of(source.content()) if mask is None else images.mask(mask.content())
    if found is None:
        return torch.ones(1, *latent)
    if not found.getextrema()[1]:
        raise ValueError("nothing of it would be learnt, because it is transparent all over; remove it")
    size = (example.size.width, example.size.height)
    same = found if found.size == size else found.resize(size, Image.Resampling.BILINEAR)
    shown = pixels.to_pixels(same.convert("RGB"), dataclasses.replace(view, colours=images.PLAIN))[:1] / 2 + 0.5
    pooled: Tensor = torch.nn.functional.adaptive_avg_pool2d(shown.clamp(0, 1), latent)
    return pooled


def missing(cache: caches.Cache, views: list[caches.Looks]) -> list[caches.Looks]:
    """The views whose masks still have to be worked out, each once."""
    cache.masks.look()
    wanted = {caches.mask_key(*looks): looks for looks in views}
    return [looks for key, looks in wanted.items() if key not in cache.masks]


def store(cache: caches.Cache, views: list[caches.Looks], latent_of: LatentOf) -> list[str]:
    """Work out and keep the masks of views; a sentence for each image without anything to look at.

    `latent_of` gives the height and width of the latents of a size.
    """
    bad = []
    for example, view in views:
        try:
            mask = mask_of(example, view, latent_of(view.size))
            cache.masks.put(caches.mask_key(example, view), {"mask": mask})
        except ValueError as error:
            bad.append(f"{example.name}: {error}")
    return bad
