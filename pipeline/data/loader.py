"""Cached examples with everything random drawn, one micro-batch at a time, from any number of worker processes."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline import conditioning, rng
from pipeline.conditioning import Conditioning, Embeddings, Ragged
from pipeline.data import cache as caches
from pipeline.data import pixels, views
from pipeline.data.manifest import Example, Manifest
from pipeline.data.options import DataOptions
from pipeline.data.sampler import MicroBatches, Position
from pipeline.geometry import Geometry

SizeStates = Callable[[Geometry], Embeddings]  # of a family


class Row(TypedDict):
    """One example in one epoch."""

    id: str
    latents: Tensor
    noise: Tensor
    u: Tensor
    mask: Tensor | None
    weight: float
    seed: int
    caption: str | None
    conditions: Embeddings


@dataclass(frozen=True)
class Batch:
    """One micro-batch: everything random in it is drawn already."""

    ids: tuple[str, ...]
    latents: Float[Tensor, "b c h w"]  # a sample of the autoencoder's posterior
    noise: Float[Tensor, "b c h w"]
    u: Float[Tensor, " b"]  # uniform in [0, 1), to become times
    mask: Float[Tensor, "b 1 h w"] | None  # what of each picture the loss looks at; None: all
    weights: Float[Tensor, " b"] | None  # of each example's loss; None: all 1
    captions: tuple[str | None, ...]  # None: trained without one
    conditioning: Conditioning  # without the prompt embeddings, where these are computed in the step
    seeds: tuple[int, ...]  # one for each example, for what is random inside the model

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its pictures, their noise, masks and weights on a device."""
        latents, noise = (value.to(device, non_blocking=True) for value in (self.latents, self.noise))
        mask, weights = (
            None if value is None else value.to(device, non_blocking=True) for value in (self.mask, self.weights)
        )
        return dataclasses.replace(self, latents=latents, noise=noise, mask=mask, weights=weights)


class CachedExamples(Dataset[Row]):
    """Looks examples up in the cache by their position in the stream."""

    def __init__(
        self,
        manifest: Manifest,
        cache: caches.Cache,
        options: DataOptions,
        *,
        seed: int,
        noise_offset: float,
        size_states: SizeStates,
        ragged: Ragged,
        live_prompts: bool,
        prior_loss_weight: float = 1.0,
        group_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.manifest, self.cache, self.options = manifest, cache, options
        self.seed, self.noise_offset = seed, noise_offset
        self.size_states, self.ragged, self.live_prompts = size_states, ragged, live_prompts
        self._has_masks, self._prior_loss_weight = options.has_masks, prior_loss_weight
        self._group_weights = group_weights or {}

    @property
    def _is_weighed(self) -> bool:
        return bool(self._group_weights) or self._prior_loss_weight != 1

    @functools.cached_property
    def unconditional(self) -> Embeddings:
        """The unconditional embeddings, for examples whose caption is dropped; read once."""
        return self.cache.text_of(None)

    def __getitem__(self, position: Position) -> Row:
        """The tensors of one example in one epoch."""
        example, epoch, seed = self.manifest.examples[position.index], position.epoch, self.seed
        view = views.view_of(example, views.variant_of(example, epoch, seed), seed=seed, size=position.size)
        entry = self.cache.latents_of(example, view)
        shape = tuple(entry["mean"].shape)
        latents = entry["mean"] + entry["std"] * rng.normal(seed, epoch, example.id, "posterior", shape)
        noise = rng.normal(seed, epoch, example.id, "noise", shape)
        if self.noise_offset:
            noise = noise + self.noise_offset * rng.normal(seed, epoch, example.id, "offset", (shape[0], 1, 1))
        dropped = conditioning.is_dropped(seed, epoch, example.id, self.options.dropout_share)
        caption = None if dropped else views.caption_in(example, epoch, seed, kept=not self.live_prompts)
        u = rng.uniform(seed, epoch, example.id, "time")
        return {
            "id": example.id,
            "latents": latents,
            "noise": noise,
            "u": torch.tensor(u, dtype=torch.float64),  # 1 - 1e-9 is 1 in float32
            "mask": self.cache.mask_of(example, view) if self._has_masks else None,
            "weight": self._weight_of(example),
            "seed": rng.number_for(seed, epoch, example.id, "model"),
            "caption": caption,
            "conditions": {**self._embeddings(caption), **self.size_states(pixels.geometry_of(example.size, view))},
        }

    def _weight_of(self, example: Example) -> float:
        if example.is_class:
            return self._prior_loss_weight
        return self._group_weights[example.group] if self._group_weights and example.group is not None else 1.0

    def _embeddings(self, caption: str | None) -> Embeddings:
        if self.live_prompts:
            return {}  # text encoders that learn encode the captions in the step (adapter/text_encoders.py)
        return self.unconditional if caption is None else self.cache.text_of(caption)

    def collate(self, rows: list[Row]) -> Batch:
        """Rows as one batch."""
        return Batch(
            ids=tuple(row["id"] for row in rows),
            latents=torch.stack([row["latents"] for row in rows]),
            noise=torch.stack([row["noise"] for row in rows]),
            u=torch.stack([row["u"] for row in rows]),
            mask=torch.stack(masks) if (masks := [row["mask"] for row in rows if row["mask"] is not None]) else None,
            weights=torch.tensor([row["weight"] for row in rows]) if self._is_weighed else None,
            captions=tuple(row["caption"] for row in rows),
            conditioning=conditioning.stack([row["conditions"] for row in rows], self.ragged),
            seeds=tuple(row["seed"] for row in rows),
        )


def build_loader(examples: CachedExamples, batches: MicroBatches, num_workers: int) -> "DataLoader[Any]":
    """A loader over the micro-batches still to come."""
    return DataLoader(
        examples,
        batch_sampler=batches,
        collate_fn=examples.collate,
        num_workers=num_workers,
        multiprocessing_context="spawn" if num_workers else None,
        pin_memory=torch.cuda.is_available(),
    )
