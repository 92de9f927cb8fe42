"""Prompt embeddings by text encoders that learn: with gradients for training, without for everything else."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.adapter import dropout
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.conditioning import Conditioning, Embeddings
from pipeline.families.base import Family


@dataclass(frozen=True)
class LivePrompts:
    """The embeddings of prompts as the text encoders have them now."""

    family: Family
    pipe: Any  # the pipeline of the live encoders
    encoders: AdaptedModels

    def __call__(self, caption: str | None) -> Embeddings:
        """The embeddings of a caption, or with None the unconditional ones, for sampling and measuring."""
        with self.encoders.evaluating():
            return self.family.embed(self.pipe, caption)

    def learning(self, captions: tuple[str | None, ...], seeds: Tensor) -> Conditioning:
        """Those of a batch, through which gradients flow; dropout takes the `seeds` of its examples, [b].

        Captions are encoded together and what is trained without one together, then put in the batch's order.
        """
        layers = [layer for model in self.encoders.models.values() for layer in dropout.installed(model)]
        kept = [index for index, caption in enumerate(captions) if caption is not None]
        dropped = [index for index, caption in enumerate(captions) if caption is None]
        parts = []
        for places in (kept, dropped):
            for layer in layers:
                layer.seeds = seeds[places]
            if places:
                texts = [caption for index in places if (caption := captions[index]) is not None]
                parts.append(
                    self.family.encode_text(self.pipe, texts)
                    if texts
                    else self.family.encode_unconditional(self.pipe, len(places))
                )
        order = torch.tensor(kept + dropped, device=seeds.device).argsort()
        return Conditioning({name: torch.cat([part[name] for part in parts])[order] for name in parts[0]})
