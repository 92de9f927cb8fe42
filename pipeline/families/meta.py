"""A family's models without weights, from their configurations alone: which layers there are, and their shapes."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from pipeline.families.base import Family
from pipeline.families.checkpoint.source import ModelSource

ADAPTABLE = (nn.Linear, nn.Conv2d)  # the kinds of layers that LoRA is made for
Shapes = dict[str, tuple[int, ...]]  # of weights, by layer
Layers = dict[str, Shapes]  # by component


def on_meta(family: Family, encoders: Iterable[str]) -> dict[str, Any]:
    """The denoiser and some text encoders, on the meta device."""
    return {part: part_on_meta(family.source, part) for part in (family.denoiser, *encoders)}


def part_on_meta(source: ModelSource, part: str) -> Any:
    """One part of a model, on the meta device, built once; not to be changed."""
    import diffusers
    import transformers

    if part in source.built_on_meta:
        return source.built_on_meta[part]
    with torch.device("meta"):
        if not part.startswith("text_encoder"):
            config = source.part_config(part)
            model = getattr(diffusers, config["_class_name"]).from_config(config)
        else:
            own = transformers.AutoConfig.from_pretrained(source.folder / part, local_files_only=True)
            model = getattr(transformers, source.index[part][1])(own)
    source.built_on_meta[part] = model
    return model


def layer_shapes(family: Family) -> Layers:
    """The weight of every linear and convolutional layer of the denoiser and the text encoders that can learn."""
    encoders = [name for name in family.trainable_encoders if family.source.has(name)]
    return {
        component: {name: tuple(m.weight.shape) for name, m in model.named_modules() if isinstance(m, ADAPTABLE)}
        for component, model in on_meta(family, encoders).items()
    }
