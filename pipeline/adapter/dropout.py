"""Dropout whose masks belong to the examples: a resume, another batch size or recomputing gives the same ones."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline import rng


class ExampleDropout(nn.Module):
    """Leaves out a share of a layer's input, scaling the rest up (Srivastava et al. 2014); only while training.

    Masks are hashes of (seed of the example, name of the layer, place), computed on tensors: the same on every
    device, without a generator, for any batch.
    """

    seeds: Int[Tensor, " b"]  # of the examples of the batch at hand

    def __init__(self, name: str, share: float) -> None:
        super().__init__()
        self.name, self.share = name, share
        self.salt = rng.number_for(0, 0, name, "dropout")
        self.seeds = torch.empty(0, dtype=torch.int64)

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """The input with the masks of its examples."""
        if not self.training:
            return x
        assert len(x) == len(self.seeds), f"{self.name}: {len(x)} rows for {len(self.seeds)} examples"
        uniform = rng.hashed_uniforms(self.seeds + self.salt, x[0].numel()).view(x.shape)
        return x * (uniform >= self.share) / (1 - self.share)


def install(model: nn.Module, share: float, adapter: str, prefix: str = "") -> None:
    """Put a dropout of its own into every adapted layer."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and adapter in module.lora_dropout:
            module.lora_dropout[adapter] = ExampleDropout(f"{prefix}{name}", share)


def installed(model: Any) -> list[ExampleDropout]:
    """The dropouts of a model; give each its seeds before a training step."""
    return [module for module in model.modules() if isinstance(module, ExampleDropout)]
