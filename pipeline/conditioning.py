"""The denoiser's inputs beside the noise: prompt embeddings, sizes, and the unconditional embedding."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Shaped
from torch import Tensor

from pipeline import rng

Ragged = Literal["pad", "list"]  # what a batch does with embeddings of different lengths
Embeddings = dict[str, Tensor]  # of one example, by the pipeline's names
Part = Mapping[str, tuple[slice, ...]]  # what of an example's embeddings one text encoder made, by the same names


@dataclass(frozen=True)
class Conditioning:
    """Named tensors per example: {'prompt_embeds': [b l d], ...}. Which names there are, the family decides.

    A family that takes prompts of different lengths as lists has a list of [l d] instead.
    """

    tensors: Mapping[str, Shaped[Tensor, "b ..."] | list[Tensor]]

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of a name that is no list."""
        value = self.tensors[name]
        assert isinstance(value, Tensor), f"{name} is a list"
        return value

    def to(self, device: torch.device, dtype: torch.dtype) -> "Conditioning":
        """The same conditioning on another device, in another precision; masks stay what they are."""

        def moved(value: Tensor) -> Tensor:
            return value.to(device, dtype if value.is_floating_point() else value.dtype, non_blocking=True)

        return Conditioning(
            {n: moved(v) if isinstance(v, Tensor) else [moved(row) for row in v] for n, v in self.tensors.items()}
        )

    def joined(self, other: "Conditioning") -> "Conditioning":
        """Both together."""
        return Conditioning({**self.tensors, **other.tensors})

    def row(self, index: int) -> Embeddings:
        """The tensors of one example."""
        return {name: value[index] for name, value in self.tensors.items()}


def stack(rows: list[Embeddings], ragged: Ragged = "pad") -> Conditioning:
    """A batch from the tensors of single examples.

    Where they differ in their first dimension (tokens), 'pad' appends zeros up to the longest, which a mask among
    the tensors marks as no tokens, and 'list' keeps them apart.
    """
    tensors: dict[str, Tensor | list[Tensor]] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if len({value.shape for value in values}) == 1:
            tensors[name] = torch.stack(values)
        elif ragged == "list":
            tensors[name] = values
        else:
            assert any("mask" in other for other in rows[0]), f"{name} is of different lengths, and there is no mask"
            tensors[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
    return Conditioning(tensors)


def is_dropped(seed: int, epoch: int, example_id: str, probability: float) -> bool:
    """Whether this example is trained without its caption in this epoch (Ho & Salimans 2022, algorithm 1)."""
    return rng.uniform(seed, epoch, example_id, "caption dropout") < probability


def emptied(seed: int, epoch: int, example_id: str, probability: float, encoders: Iterable[str]) -> tuple[str, ...]:
    """The text encoders that read nothing for this example in this epoch, each drawn by itself (Esser et al. 2024)."""
    return tuple(
        name for name in encoders if rng.uniform(seed, epoch, example_id, f"encoder dropout {name}") < probability
    )


def with_parts_of(own: Embeddings, other: Embeddings, parts: Iterable[Part]) -> Embeddings:
    """One example's embeddings with some encoders' parts as in another's; gradients flow through both."""
    found = dict(own)
    for part in parts:
        for name, place in part.items():
            found[name] = found[name].clone()
            found[name][place] = other[name][place]
    return found
