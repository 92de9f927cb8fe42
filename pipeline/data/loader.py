"""Cached examples with everything random drawn, one micro-batch at a time, from any number of worker processes."""

import dataclasses
import functools
import itertools
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline import conditioning, rng
from pipeline.conditioning import Conditioning, Embeddings, Part, Ragged
from pipeline.data import cache as caches
from pipeline.data import pixels, views
from pipeline.data.manifest import Example, Manifest
from pipeline.data.options import DataOptions
from pipeline.data.sampler import MicroBatches, Position
from pipeline.geometry import Geometry
from pipeline.objective.noise import noise_of, perturbed
from pipeline.objective.noise_options import NoiseOptions

SizeStates = Callable[[Geometry], Embeddings]  # of a family


class Row(TypedDict):
    """One example in one epoch."""

    id: str
    latents: Tensor
    noise: Tensor
    perturbed: Tensor | None
    u: Tensor
    mask: Tensor | None
    weight: float
    seed: int
    caption: str | None
    emptied: tuple[str, ...]
    conditions: Embeddings
    wrong: Embeddings | None


@dataclass(frozen=True)
class Batch:
    """One micro-batch: everything random in it is drawn already."""

    ids: tuple[str, ...]
    latents: Float[Tensor, "b c h w"]  # a sample of the autoencoder's posterior
    noise: Float[Tensor, "b c h w"]
    perturbed: Float[Tensor, "b c h w"] | None  # the noise that the model sees; None: the same
    u: Float[Tensor, " b"]  # uniform in [0, 1), to become times
    mask: Float[Tensor, "b 1 h w"] | None  # what of each picture the loss looks at; None: all
    weights: Float[Tensor, " b"] | None  # of each example's loss; None: all 1
    captions: tuple[str | None, ...]  # None: trained without one
    conditioning: Conditioning  # without the prompt embeddings, where these are computed in the step
    wrong: Conditioning | None  # prompt embeddings of other examples' captions, where targets lead away from them
    seeds: tuple[int, ...]  # one for each example, for what is random inside the model
    emptied: tuple[tuple[str, ...], ...]  # the text encoders that read nothing for each example

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its pictures, their noise, masks and weights on a device."""

        def moved(value: Tensor | None) -> Any:
            return None if value is None else value.to(device, non_blocking=True)

        return dataclasses.replace(
            self,
            latents=moved(self.latents),
            noise=moved(self.noise),
            perturbed=moved(self.perturbed),
            mask=moved(self.mask),
            weights=moved(self.weights),
        )


class CachedExamples(Dataset[Row]):
    """Looks examples up in the cache by their position in the stream."""

    def __init__(
        self,
        manifest: Manifest,
        cache: caches.Cache,
        options: DataOptions,
        *,
        seed: int,
        noise: NoiseOptions,
        size_states: SizeStates,
        ragged: Ragged,
        live_prompts: bool,
        text_parts: Mapping[str, Part],
        prior_loss_weight: float = 1.0,
        group_weights: Mapping[str, float] | None = None,
        num_strata: int = 1,
        wrong_captions: bool = False,
    ) -> None:
        self.manifest, self.cache, self.options = manifest, cache, options
        self.seed, self.noise, self.num_strata, self.wrong_captions = seed, noise, num_strata, wrong_captions
        self.size_states, self.ragged, self.live_prompts = size_states, ragged, live_prompts
        self._text_parts = text_parts
        self._has_masks, self._prior_loss_weight = options.has_masks, prior_loss_weight
        self._group_weights = group_weights or {}

    @property
    def _is_weighed(self) -> bool:
        return bool(self._group_weights) or self._prior_loss_weight != 1 or self.options.weight_column is not None

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
        noise = noise_of(self.noise, seed, epoch, example.id, shape)
        dropped = conditioning.is_dropped(seed, epoch, example.id, self.options.dropout_share)
        caption = None if dropped else views.caption_in(example, epoch, seed, kept=not self.live_prompts)
        share = 0.0 if dropped else self.options.encoder_dropout
        emptied = conditioning.emptied(seed, epoch, example.id, share, self._text_parts) if share else ()
        if emptied and len(emptied) == len(self._text_parts):
            caption, emptied = None, ()  # nothing is left of it, so nothing leads away from its absence
        u = (position.place % self.num_strata + rng.uniform(seed, epoch, example.id, "time")) / self.num_strata
        return {
            "id": example.id,
            "latents": latents,
            "noise": noise,
            "perturbed": perturbed(self.noise, noise, seed, epoch, example.id),
            "u": torch.tensor(u, dtype=torch.float64),  # 1 - 1e-9 is 1 in float32
            "mask": self.cache.mask_of(example, view) if self._has_masks else None,
            "weight": self._weight_of(example),
            "seed": rng.number_for(seed, epoch, example.id, "model"),
            "caption": caption,
            "emptied": emptied,
            "conditions": {
                **self._embeddings(caption, emptied),
                **self.size_states(pixels.geometry_of(example.size, view)),
            },
            "wrong": self._embeddings(self._wrong_caption(position), ()) if self.wrong_captions else None,
        }

    def _wrong_caption(self, position: Position) -> str:
        """What another example shows in this epoch, by chance as all else: one that has no caption of this one.

        Tags in another order are the same caption. Where each example has one of its captions, another text will do.
        """
        examples, epoch, seed = self.manifest.examples, position.epoch, self.seed
        example = examples[position.index]
        own, right = views.caption_in(example, epoch, seed, kept=True), set(example.captions)
        first = rng.integer(seed, epoch, example.id, "wrong caption", len(examples))

        def captions(is_meant: Callable[[Example], bool]) -> Iterator[str]:
            for step in range(len(examples)):
                other = examples[(first + step) % len(examples)]
                if is_meant(other) and (caption := views.caption_in(other, epoch, seed, kept=True)) != own:
                    yield caption

        wrong = captions(lambda other: right.isdisjoint(other.captions))
        return next(itertools.chain(wrong, captions(lambda other: True)), own)

    def _weight_of(self, example: Example) -> float:
        if example.is_class:
            return self._prior_loss_weight
        of_group = self._group_weights[example.group] if self._group_weights and example.group is not None else 1.0
        return example.loss_weight * of_group

    def _embeddings(self, caption: str | None, emptied: tuple[str, ...]) -> Embeddings:
        if self.live_prompts:
            return {}  # text encoders that learn encode the captions in the step (adapter/text_encoders.py)
        if caption is None:
            return self.unconditional
        parts = [self._text_parts[encoder] for encoder in emptied]
        return conditioning.with_parts_of(self.cache.text_of(caption), self.unconditional, parts)

    def collate(self, rows: list[Row]) -> Batch:
        """Rows as one batch."""
        wrong = [row["wrong"] for row in rows if row["wrong"] is not None]
        return Batch(
            ids=tuple(row["id"] for row in rows),
            latents=torch.stack([row["latents"] for row in rows]),
            noise=torch.stack([row["noise"] for row in rows]),
            perturbed=_stacked([row["perturbed"] for row in rows]),
            u=torch.stack([row["u"] for row in rows]),
            mask=_stacked([row["mask"] for row in rows]),
            weights=torch.tensor([row["weight"] for row in rows]) if self._is_weighed else None,
            captions=tuple(row["caption"] for row in rows),
            conditioning=conditioning.stack([row["conditions"] for row in rows], self.ragged),
            wrong=conditioning.stack(wrong, self.ragged) if wrong else None,
            seeds=tuple(row["seed"] for row in rows),
            emptied=tuple(row["emptied"] for row in rows),
        )


def _stacked(values: list[Tensor | None]) -> Tensor | None:
    """What all rows have, as one tensor; None where they have none."""
    found = [value for value in values if value is not None]
    return torch.stack(found) if found else None


def _leave_signals_to_the_run(worker: int) -> None:
    """What reaches all processes of a terminal or a scheduler is for the run, which finishes its step and saves.

    It could not if a worker had died of it.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def build_loader(examples: CachedExamples, batches: MicroBatches, num_workers: int) -> "DataLoader[Any]":
    """A loader over the micro-batches still to come."""
    return DataLoader(
        examples,
        batch_sampler=batches,
        collate_fn=examples.collate,
        num_workers=num_workers,
        multiprocessing_context="spawn" if num_workers else None,
        worker_init_fn=_leave_signals_to_the_run,
        pin_memory=torch.cuda.is_available(),
    )
