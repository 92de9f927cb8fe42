"""Cached examples with their draws, one micro-batch at a time, from any number of worker processes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline import conditioning, rng
from pipeline.conditioning import Conditioning, Geometry
from pipeline.data import cache as caches
from pipeline.data import pixels
from pipeline.data.manifest import Manifest
from pipeline.data.options import DataOptions
from pipeline.data.sampler import MicroBatches, Position

SizeStates = Callable[[Geometry], dict[str, Tensor]]  # of a family


@dataclass(frozen=True)
class Batch:
    """One micro-batch: everything random in it is drawn already."""

    ids: tuple[str, ...]
    latents: Float[Tensor, "b c h w"]  # a draw from the autoencoder's posterior
    noise: Float[Tensor, "b c h w"]
    u: Float[Tensor, " b"]  # uniform in [0, 1), to become times
    captions: tuple[str | None, ...]  # None: the null
    conditioning: Conditioning  # without the texts, where these are computed in the step
    rows: tuple[int, ...]  # a number of its own for each example, for what is drawn inside the model


class CachedExamples(Dataset[dict[str, Any]]):
    """Looks examples up in the cache by position in the stream."""

    def __init__(
        self,
        manifest: Manifest,
        cache: caches.Cache,
        options: DataOptions,
        *,
        seed: int,
        resolution: int,
        offset: float,
        size_states: SizeStates,
        live_texts: bool,
    ) -> None:
        self.manifest, self.cache, self.options = manifest, cache, options
        self.seed, self.resolution, self.noise_offset = seed, resolution, offset
        self.size_states, self.live_texts = size_states, live_texts

    def __getitem__(self, position: Position) -> dict[str, Any]:
        """The tensors of one example in one epoch."""
        example, epoch, seed = self.manifest.examples[position.index], position.epoch, self.seed
        variant = caches.variant_of(example, epoch, seed, self.options)
        view = caches.view_of(example, variant, seed, self.resolution, self.options)
        entry = caches.load(self.cache.latent_path(example, view, self.options.alpha_background))
        shape = tuple(entry["mean"].shape)
        latents = entry["mean"] + entry["std"] * rng.normal(seed, epoch, example.id, "posterior", shape)
        noise = rng.normal(seed, epoch, example.id, "noise", shape)
        if self.noise_offset:
            noise = noise + self.noise_offset * rng.normal(seed, epoch, example.id, "offset", (shape[0], 1, 1))
        dropped = conditioning.is_dropped(seed, epoch, example.id, self.options.null_share)
        caption = None if dropped else caches.caption_in(example, epoch, seed)
        return {
            "id": example.id,
            "latents": latents,
            "noise": noise,
            "u": torch.tensor(
                rng.uniform(seed, epoch, example.id, "time"), dtype=torch.float64
            ),  # 1 - 1e-9 is 1 in float32
            "row": rng.number_for(seed, epoch, example.id, "model"),
            "caption": caption,
            "states": {
                **({} if self.live_texts else caches.load(self.cache.text_path(caption))),
                **self.size_states(pixels.geometry_of(example.width, example.height, view)),
            },
        }


def collate(rows: list[dict[str, Any]]) -> Batch:
    """Rows of CachedExamples as one Batch."""
    return Batch(
        ids=tuple(row["id"] for row in rows),
        latents=torch.stack([row["latents"] for row in rows]),
        noise=torch.stack([row["noise"] for row in rows]),
        u=torch.stack([row["u"] for row in rows]),
        captions=tuple(row["caption"] for row in rows),
        conditioning=conditioning.stack([row["states"] for row in rows]),
        rows=tuple(row["row"] for row in rows),
    )


def loader_for(examples: CachedExamples, batches: MicroBatches, num_workers: int) -> "DataLoader[Any]":
    """A loader over the micro-batches still to come."""
    return DataLoader(
        examples,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        multiprocessing_context="spawn" if num_workers else None,
    )
