"""The models of one pipeline that carry the adapter: the denoiser, and text encoders where those learn too."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.adapter import lora, precision


@dataclass(frozen=True)
class Adapted:
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

    def layers(self, adapter: str = lora.NAME) -> set[str]:
        """The layers that hold an adapter, as '<component>.<layer>'."""
        return {f"{part}.{name}" for part, model in self.models.items() for name in lora.scales(model, adapter)}

    @contextlib.contextmanager
    def switched_off(self) -> Iterator[None]:
        """The base model for a while: what the adapter adds is left out."""
        with contextlib.ExitStack() as stack:
            for model in self.models.values():
                stack.enter_context(lora.switched_off(model))
            yield

    @contextlib.contextmanager
    def at_strength(self, strength: float) -> Iterator[None]:
        """The adapter's addition multiplied by `strength` for a while; 1 is what is trained."""
        with contextlib.ExitStack() as stack:
            for model in self.models.values():
                stack.enter_context(lora.at_strength(model, strength))
            yield

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout and gradients for a while."""
        training = {part: model.training for part, model in self.models.items()}
        try:
            for model in self.models.values():
                model.eval()
            with torch.no_grad():
                yield
        finally:
            for part, model in self.models.items():
                model.train(training[part])

    @contextlib.contextmanager
    def in_float32(self) -> Iterator[None]:
        """The frozen weights in float32 for a while, layer by layer."""
        with contextlib.ExitStack() as stack:
            for model in self.models.values():
                stack.enter_context(precision.in_float32(model))
            yield
