"""Dropout whose masks belong to the examples: a resume, another batch size or recomputing gives the same ones."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
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
            magnitudes = module.lora_magnitude_vector
            if adapter in magnitudes and hasattr(magnitudes[adapter], "conv_fn"):
                # With dropout PEFT's DoRA applies the frozen layer again, to inputs in the adapter's float32, and
                # casts the weight of a linear layer but not of a convolution (PEFT 0.21).
                magnitudes[adapter].conv_fn = functools.partial(_cast_and_apply, magnitudes[adapter].conv_fn)


def _cast_and_apply(convolution: Callable[..., Tensor], x: Tensor, weight: Tensor, **how: Any) -> Tensor:
    return convolution(x, weight.to(x.dtype), **how)


def installed(model: Any) -> list[ExampleDropout]:
    """The dropouts of a model; give each its seeds before a training step."""
    return [module for module in model.modules() if isinstance(module, ExampleDropout)]


def recomputed_alike(model: nn.Module) -> tuple[contextlib.AbstractContextManager[None], Any]:
    """For torch's checkpointing: contexts of a forward pass and of its recomputation, which takes the same seeds.

    Text encoders read more than once for a batch, so by then their dropouts hold the seeds of another reading.
    """
    layers = installed(model)
    return contextlib.nullcontext(), _seeded(layers, [layer.seeds for layer in layers])


@contextlib.contextmanager
def _seeded(layers: Sequence[ExampleDropout], seeds: Sequence[Tensor]) -> Iterator[None]:
    before = [layer.seeds for layer in layers]
    for layer, own in zip(layers, seeds, strict=True):
        layer.seeds = own
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.seeds = own
