"""LoRA on a denoiser: attach it, name its parameters, read its strength."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline import draws
from pipeline.adapter.options import AdapterOptions
from pipeline.errors import ConfigError

NAME = "default"


def attach(denoiser: Any, options: AdapterOptions, targets: tuple[str, ...], seed: int) -> None:
    """Freeze the denoiser and add trainable low-rank layers to the targets (Hu et al. 2021, eq. 3).

    A is normal with standard deviation 1 / rank and B is zero, so the model is the base exactly
    until the first step. The new weights are float32 whatever the base is in. Raises ConfigError
    if a target matches no layer.
    """
    from peft import LoraConfig

    denoiser.requires_grad_(False)
    layers = targeted(denoiser, options, targets)
    denoiser.add_adapter(
        LoraConfig(
            r=options.rank, lora_alpha=options.alpha, target_modules=sorted(layers), init_lora_weights="gaussian"
        ),
        adapter_name=NAME,
    )
    for name, parameter in parameters(denoiser).items():
        value = torch.zeros(parameter.shape)
        if ".lora_A." in name:
            value = draws.normal(seed, 0, name, "adapter", tuple(parameter.shape)) / options.rank
        parameter.data = value.to(parameter.device)


def targeted(denoiser: nn.Module, options: AdapterOptions, targets: tuple[str, ...]) -> dict[str, nn.Module]:
    """The layers that --lora_layers, or else the family's targets, name; ConfigError if one names none."""
    wanted = tuple(part.strip() for part in options.lora_layers.split(",")) if options.lora_layers else targets
    layers = {name: module for name, module in denoiser.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    unmatched = [target for target in wanted if not any(_matches(name, target) for name in layers)]
    if unmatched:
        endings = sorted({name.rsplit(".", 1)[-1] for name in layers if not name.rsplit(".", 1)[-1].isdigit()})
        raise ConfigError(
            f"--lora_layers: {', '.join(unmatched)} matches no layer; layers end in {', '.join(endings)}."
        )
    return {name: layer for name, layer in layers.items() if any(_matches(name, target) for target in wanted)}


def num_weights(layer: nn.Module, rank: int) -> int:
    """Weights of A and B for one layer."""
    if isinstance(layer, nn.Linear):
        return rank * (layer.in_features + layer.out_features)
    assert isinstance(layer, nn.Conv2d)
    return rank * (layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1] + layer.out_channels)


def parameters(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's trainable tensors by name, in a fixed order."""
    return {name: value for name, value in sorted(denoiser.named_parameters()) if value.requires_grad}


def scales(denoiser: nn.Module) -> dict[str, float]:
    """What each adapted layer multiplies its addition by: alpha / rank, by the layer's name."""
    from peft.tuners.lora import LoraLayer

    return {
        name: float(module.scaling[NAME]) for name, module in denoiser.named_modules() if isinstance(module, LoraLayer)
    }


@contextlib.contextmanager
def switched_off(denoiser: Any) -> Iterator[None]:
    """The base model for a while: what the adapter adds is left out."""
    denoiser.disable_adapters()
    try:
        yield
    finally:
        denoiser.enable_adapters()
        denoiser.set_adapter(NAME)


@contextlib.contextmanager
def at_strength(denoiser: Any, strength: float) -> Iterator[None]:
    """The adapter's addition multiplied by `strength` for a while; 1 is what is trained."""
    denoiser.set_adapters([NAME], [strength])
    try:
        yield
    finally:
        denoiser.set_adapters([NAME], [1.0])


def cast_base(denoiser: nn.Module, dtype: torch.dtype) -> None:
    """Change the precision of the frozen weights alone; up to float32 and back is exact."""
    for name, value in denoiser.named_parameters():
        if ".lora_" not in name:
            value.data = value.data.to(dtype)


def state(denoiser: Any) -> dict[str, Float[Tensor, "..."]]:
    """The adapter's tensors under the names PEFT shares with diffusers: '<layer>.lora_A.weight'."""
    from peft import get_peft_model_state_dict

    values: dict[str, Tensor] = get_peft_model_state_dict(denoiser, adapter_name=NAME)
    return {name: value.detach() for name, value in values.items()}


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
