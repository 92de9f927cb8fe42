"""LoRA on a denoiser: attach it, name its parameters, read its scale."""

import contextlib
import math
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline import rng
from pipeline.adapter import dropout, pissa
from pipeline.adapter.layers import TargetModule
from pipeline.adapter.names import LIVE, belongs_to, in_file, is_a, is_adapter, is_live
from pipeline.adapter.options import AdapterOptions
from pipeline.adapter.quantized import QuantizedLinear
from pipeline.adapter.streamed import is_streamed


def attach(model: Any, options: AdapterOptions, chosen: list[TargetModule], seed: int | None) -> None:
    """Freeze the model and add trainable low-rank layers to the chosen ones (Hu et al. 2021, eq. 3).

    The model is the base until the first step: B is zero, or what it begins with is subtracted. The
    new weights are float32 whatever the base is in. Without a `seed` nothing is drawn: the shapes alone are wanted.
    """
    model.requires_grad_(False)
    config = _config(chosen, options)
    prefix = chosen[0].prefix
    model.add_adapter(config, adapter_name=LIVE)
    for name, parameter in parameters(model).items():
        value = parameter.data.float()
        if is_a(name) and options.lora_init != "pissa" and seed is not None:
            value = first_weights(f"{prefix}{name}", value, options, seed).to(parameter.device)
        parameter.data = value
    if options.lora_init == "pissa":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # that is ours
            model.add_adapter(config, adapter_name=pissa.ORIGIN)
        if seed is not None:
            pissa.start(model, LIVE, seed)
    if options.lora_dropout:
        dropout.install(model, options.lora_dropout, LIVE, prefix)
    model.train(model.training)  # new layers begin in training mode, whatever the model is in
    activate(model)


def activate(model: Any) -> None:
    """Let the adapter, and what belongs to it, act; only its own weights learn."""
    model.set_adapter(_names(model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_live(name))


def remove(model: Any, adapter: str) -> None:
    """Take an adapter off again; diffusers and transformers call it differently."""
    delete = model.delete_adapters if hasattr(model, "delete_adapters") else model.delete_adapter
    delete(adapter)


def _names(model: Any) -> list[str]:
    return [name for name in (LIVE, pissa.ORIGIN) if name in model.peft_config]


def _config(chosen: list[TargetModule], options: AdapterOptions) -> Any:
    from peft import LoraConfig

    # PEFT tries the patterns one by one at each layer, and Python keeps 512 of them compiled: of SDXL's 794 layers each
    # would compile all, 40 s in all. So only those that are not as usual have one.
    return LoraConfig(
        r=options.rank,
        lora_alpha=options.rank,
        rank_pattern={f"^{re.escape(site.name)}": site.rank for site in chosen if site.rank != options.rank},
        alpha_pattern={f"^{re.escape(site.name)}": site.alpha for site in chosen if site.alpha != options.rank},
        target_modules="|".join(re.escape(site.name) for site in chosen),
        use_rslora=options.use_rslora,
        use_dora=chosen[0].use_dora,
        init_lora_weights="gaussian",
    )


def first_weights(
    name: str, parameter: Float[Tensor, "r i *kernel"], options: AdapterOptions, seed: int
) -> Float[Tensor, "r i *kernel"]:
    """A at the start: normal with deviation 1 / rank, or uniform within 1 / sqrt(inputs), drawn from its name."""
    shape = tuple(parameter.shape)
    if options.lora_init == "gaussian":
        return rng.normal(seed, 0, name, "adapter", shape) / shape[0]
    return rng.uniforms(seed, 0, name, "adapter", shape).mul_(2).sub_(1) / math.sqrt(math.prod(shape[1:]))


def parameters(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's trainable tensors by name, in a fixed order."""
    return {name: value for name, value in sorted(denoiser.named_parameters()) if is_live(name)}


def scales(denoiser: nn.Module, adapter: str = LIVE) -> dict[str, float]:
    """What each adapted layer multiplies its addition by: alpha / rank, by the layer's name."""
    from peft.tuners.lora import LoraLayer

    return {
        name: float(module.scaling[adapter])
        for name, module in denoiser.named_modules()
        if isinstance(module, LoraLayer) and adapter in module.scaling
    }


def adapted_layers(model: nn.Module) -> list[Any]:
    """PEFT's layers, each with a frozen layer and what the adapter adds to it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


@contextlib.contextmanager
def with_scale(denoiser: Any, scale: float) -> Iterator[None]:
    """The adapter's addition multiplied by `scale` for a while; 1 is what is trained."""
    places = [(layer, name) for layer in adapted_layers(denoiser) for name in _names(denoiser)]
    try:
        for layer, name in places:
            layer.set_scale(name, scale)
        yield
    finally:
        for layer, name in places:
            layer.set_scale(name, 1.0)


@contextlib.contextmanager
def folded(model: Any) -> Iterator[None]:
    """The adapter within the frozen weights for a while, which spares every layer its two products.

    Only where the weights are there, in float32 and on a CPU: half precision would round away what was learnt, and a
    GPU may not have the room for adapted weights twice. The frozen ones come back bit for bit.
    """
    layers = adapted_layers(model)
    frozen = [layer.get_base_layer() for layer in layers]
    if is_streamed(model) or any(isinstance(layer, QuantizedLinear) for layer in frozen):  # whose weights are not there
        yield
        return
    weights = [layer.weight for layer in frozen]
    if any(weight.dtype != torch.float32 or weight.device.type != "cpu" for weight in weights):
        yield
        return
    own = [weight.data for weight in weights]
    try:
        with torch.no_grad():
            for layer, weight in zip(layers, weights, strict=True):
                weight.data = weight.data.clone()
                layer.merge()
        yield
    finally:
        for layer, weight, data in zip(layers, weights, own, strict=True):
            layer.merged_adapters.clear()
            weight.data = data


def every_layer(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of all linear and convolutional layers, adapted or not, by their names without an adapter."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    return {
        name.replace(".base_layer", ""): tuple(module.weight.shape)
        for name, module in found.items()
        if not is_adapter(name)
    }


def state(denoiser: nn.Module, adapter: str = LIVE) -> dict[str, Float[Tensor, "..."]]:
    """The adapter's tensors under the names PEFT shares with diffusers: as in a file, without the component."""
    named = denoiser.named_parameters()
    return {in_file(name, adapter): value.detach() for name, value in named if belongs_to(name, adapter)}
