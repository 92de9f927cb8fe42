"""The published models, from their configurations and without weights, and adapters for any of their layers."""

import functools

import diffusers
import torch
import transformers
from torch import nn

from pipeline.bench import published as models
from tests.adapter.dialects import SD, SDXL

MODELS = {
    "sd15": ({"unet": "sd15", "text_encoder": "sd15_text_encoder"}, SD),
    "sdxl": ({"unet": "sdxl", "text_encoder": "sd15_text_encoder", "text_encoder_2": "sdxl_text_encoder_2"}, SDXL),
}


TRANSFORMERS = {  # which ComfyUI reads as diffusers has them
    "sd35_medium": {
        "transformer": "sd35_medium",
        "text_encoder": "sd15_text_encoder",
        "text_encoder_2": "sdxl_text_encoder_2",
    },
    "flux_dev": {"transformer": "flux_dev", "text_encoder": "sd15_text_encoder"},
}


def config(name: str) -> dict:
    return models.config(name)


@functools.cache
def published(name: str) -> nn.Module:
    values = config(name)
    with torch.device("meta"):
        if "_class_name" in values:
            return getattr(diffusers, values["_class_name"]).from_config(values)
        text_config = transformers.CLIPTextConfig.from_dict(values)
        return getattr(transformers, values["architectures"][0])(text_config)


def layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}


def adapter(
    component: str, chosen: dict[str, nn.Module], *, device: str = "cpu", seed: int = 0, rank: int | None = None
):
    """A canonical adapter whose ranks differ from layer to layer, small enough to leave activations finite."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for number, (name, layer) in enumerate(chosen.items()):
        size = rank or 1 + number % 3
        kernel = () if isinstance(layer, nn.Linear) else (1, 1)
        shapes = {"A": (size, *layer.weight.shape[1:]), "B": (layer.weight.shape[0], size, *kernel)}
        for kind, shape in shapes.items():
            value = (
                torch.empty(shape, device="meta") if device == "meta" else torch.randn(shape, generator=generator) / 8
            )
            tensors[f"{component}.{name}.lora_{kind}.weight"] = value
    return tensors


def alphas_of(tensors: dict[str, torch.Tensor]) -> dict[str, float]:
    names = sorted({name.rpartition(".lora_")[0] for name in tensors})
    return {name: 0.5 + number % 7 for number, name in enumerate(names)}
