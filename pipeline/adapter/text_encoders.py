"""Prompt embeddings by text encoders that learn: with gradients for training, without for everything else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.adapter import dropout
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.conditioning import Conditioning, Embeddings, with_parts_of
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

    def learning(
        self, captions: tuple[str | None, ...], seeds: Tensor, emptied: Sequence[tuple[str, ...]]
    ) -> Conditioning:
        """Those of a batch, through which gradients flow; dropout takes the `seeds` of its examples, [b].

        Captions are encoded together and what is trained without one together, then put in the batch's order. Of each
        example the parts of the encoders that are `emptied` are the unconditional ones.
        """
        kept = [index for index, caption in enumerate(captions) if caption is not None]
        dropped = [index for index, caption in enumerate(captions) if caption is None]
        texts = [caption for caption in captions if caption is not None]
        parts = [self._read(places, seeds, own) for places, own in ((kept, texts), (dropped, [])) if places]
        order = torch.tensor(kept + dropped, device=seeds.device).argsort()
        found = {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}
        partly = [index for index in kept if emptied[index]]
        return Conditioning(self._partly_empty(found, partly, seeds, emptied) if partly else found)

    def _read(self, places: list[int], seeds: Tensor, texts: list[str]) -> dict[str, Tensor]:
        """What the encoders make of texts, or of none, for the examples at some places of a batch."""
        for model in self.encoders.models.values():
            for layer in dropout.installed(model):
                layer.seeds = seeds[places]
        if texts:
            return self.family.encode_text(self.pipe, texts)
        return self.family.encode_unconditional(self.pipe, len(places))

    def _partly_empty(
        self, found: dict[str, Tensor], partly: list[int], seeds: Tensor, emptied: Sequence[tuple[str, ...]]
    ) -> dict[str, Tensor]:
        """The embeddings of a batch, those of some examples with the parts of some encoders as of no text."""
        empty = self._read(partly, seeds, [])
        rows = [{name: value[index] for name, value in found.items()} for index in range(len(emptied))]
        for place, index in enumerate(partly):
            nothing = {name: value[place] for name, value in empty.items()}
            parts = [self.family.text_parts[encoder] for encoder in emptied[index]]
            rows[index] = with_parts_of(rows[index], nothing, parts)
        return {name: torch.stack([row[name] for row in rows]) for name in found}
