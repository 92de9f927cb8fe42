"""The models of one pipeline that carry the adapter: the denoiser, and text encoders where those learn too."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.adapter import lora, precision
from pipeline.adapter.names import LIVE


@dataclass(frozen=True)
class AdaptedModels:
    """Models with an adapter on them, by the pipeline's names for them; the denoiser comes first."""

    models: dict[str, Any]

    @property
    def denoiser(self) -> Any:
        """The model that is trained in any case."""
        return next(iter(self.models.values()))

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable tensors by '<component>.<name>', in a fixed order."""
        return {
            f"{part}.{name}": value for part, m in self.models.items() for name, value in lora.parameters(m).items()
        }

    def layers(self, adapter: str = LIVE) -> set[str]:
        """The layers that hold an adapter, as '<component>.<layer>'."""
        return {f"{part}.{name}" for part, model in self.models.items() for name in lora.scales(model, adapter)}

    @functools.cached_property
    def _switches(self) -> list[Any]:
        """The adapted layers, each with PEFT's flag that leaves its adapters out."""
        return [layer for model in self.models.values() for layer in lora.adapted_layers(model)]

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """The base model for a while: one flag per layer, and no parameter is touched."""
        before = [layer._disable_adapters for layer in self._switches]  # True within another such block
        for layer in self._switches:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer, was_disabled in zip(self._switches, before, strict=True):
                layer._disable_adapters = was_disabled

    def folded(self) -> contextlib.AbstractContextManager[None]:
        """For many pictures in a row: the denoiser's adapter within its frozen weights, where that changes nothing."""
        return lora.folded(self.denoiser)

    @contextlib.contextmanager
    def with_scale(self, scale: float) -> Iterator[None]:
        """The adapter's addition multiplied by `scale` for a while; 1 is what is trained."""
        with contextlib.ExitStack() as stack:
            for model in self.models.values():
                stack.enter_context(lora.with_scale(model, scale))
            yield

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout and gradients for a while."""
        training = [model for model in self.models.values() if model.training]
        try:
            for model in training:
                model.eval()
            with torch.no_grad():
                yield
        finally:
            for model in training:
                model.train()

    @contextlib.contextmanager
    def in_float32(self) -> Iterator[None]:
        """The frozen weights in float32 for a while, layer by layer."""
        with contextlib.ExitStack() as stack:
            for model in self.models.values():
                stack.enter_context(precision.in_float32(model))
            yield
