"""Dropout whose masks belong to the examples: a resume, another batch size or recomputing draws the same ones."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline import rng


class ExampleDropout(nn.Module):
    """Leaves out a share of a layer's input, scaling the rest up (Srivastava et al. 2014); only while training."""

    def __init__(self, name: str, share: float) -> None:
        super().__init__()
        self.name, self.share = name, share
        self.rows: tuple[int, ...] = ()  # a number for each example of the batch at hand

    def forward(self, x: Tensor) -> Tensor:
        """The input with its mask, drawn row by row from the row's number and the layer's name."""
        if not self.training:
            return x
        assert len(x) == len(self.rows), f"{self.name}: {len(x)} rows for {len(self.rows)} examples"
        masks = torch.stack([self._mask(row, x[0]) for row in self.rows])
        return x * masks / (1 - self.share)

    def _mask(self, row: int, like: Tensor) -> Tensor:
        generator = torch.Generator(like.device).manual_seed(rng.number_for(row, 0, self.name, "dropout"))
        return torch.rand(like.shape, generator=generator, device=like.device) >= self.share


def install(model: nn.Module, share: float, adapter: str, prefix: str = "") -> None:
    """Put a dropout of its own into every adapted layer."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and adapter in module.lora_dropout:
            module.lora_dropout[adapter] = ExampleDropout(f"{prefix}{name}", share)


def installed(model: Any) -> list[ExampleDropout]:
    """The dropouts of a model; give each its rows before a training step."""
    return [module for module in model.modules() if isinstance(module, ExampleDropout)]
