"""What the denoiser is told beside the noise: text states, sizes, and the null that replaces some texts in training."""

from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from pipeline import rng


@dataclass(frozen=True)
class Geometry:
    """Where in its resized picture a square was cut, in pixels, as the mirrored picture shows it."""

    original_height: int
    original_width: int
    top: int
    left: int
    height: int
    width: int


def whole(pixels: int) -> Geometry:
    """The geometry of a picture that was neither resized nor cut: what is asked for in sampling."""
    return Geometry(pixels, pixels, 0, 0, pixels, pixels)


@dataclass(frozen=True)
class Conditioning:
    """Named tensors per example: {'prompt_embeds': [b l d], ...}. Which names there are, the family decides."""

    tensors: dict[str, Shaped[Tensor, "b ..."]]

    def to(self, device: torch.device, dtype: torch.dtype) -> "Conditioning":
        """The same conditioning on another device, in another precision; masks stay what they are."""
        return Conditioning(
            {
                name: value.to(device, dtype if value.is_floating_point() else value.dtype)
                for name, value in self.tensors.items()
            }
        )

    def joined(self, other: "Conditioning") -> "Conditioning":
        """Both together."""
        return Conditioning({**self.tensors, **other.tensors})

    def row(self, index: int) -> dict[str, Tensor]:
        """The tensors of one example."""
        return {name: value[index] for name, value in self.tensors.items()}


def stack(rows: list[dict[str, Tensor]]) -> Conditioning:
    """One conditioning from the text states of single captions."""
    return Conditioning({name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def is_dropped(seed: int, epoch: int, example_id: str, probability: float) -> bool:
    """Whether this example trains with the null condition in this epoch (Ho & Salimans 2022, algorithm 1)."""
    return rng.uniform(seed, epoch, example_id, "caption dropout") < probability
