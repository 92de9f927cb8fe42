"""A family's models without weights, from their configurations alone: which layers there are, and their shapes."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from pipeline.errors import CheckpointError
from pipeline.families.base import Family
from pipeline.families.checkpoint.source import ModelSource

ADAPTABLE = (nn.Linear, nn.Conv2d)  # the kinds of layers that LoRA is made for
FILLING = frozenset({"normal_", "uniform_", "kaiming_uniform_"})  # of tensors and of torch.nn.init
Shapes = dict[str, tuple[int, ...]]  # of weights, by layer
Layers = dict[str, Shapes]  # by component


class Unfilled(TorchFunctionMode):
    """Leaves tensors alone that would get random numbers: on the meta device there are none, and making them there
    loads a computer algebra system."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """The call, or nothing but its tensor."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in FILLING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def on_meta(family: Family, encoders: Iterable[str]) -> dict[str, Any]:
    """The denoiser and some text encoders, on the meta device."""
    return {part: part_on_meta(family.source, part) for part in (family.denoiser, *encoders)}


def part_on_meta(source: ModelSource, part: str) -> Any:
    """One part of a model, on the meta device, built once; not to be changed. Raises CheckpointError as the next."""
    if part not in source.built_on_meta:
        source.built_on_meta[part] = build_on_meta(source, part)
    return source.built_on_meta[part]


def build_on_meta(source: ModelSource, part: str) -> Any:
    """One part of a model, on the meta device.

    Raises CheckpointError for a class that the library does not have, or that cannot be made from its configuration.
    """
    import diffusers
    import transformers

    config, is_text = source.part_config(part), part.startswith("text_encoder")
    library, name = (transformers, source.index[part][1]) if is_text else (diffusers, config.get("_class_name"))
    kind = getattr(library, str(name), None)
    if kind is None:
        version = f"{library.__name__} {library.__version__}"
        raise CheckpointError(f"{source.folder}: its {part} is a {name}, which {version} does not have.")
    try:
        with torch.device("meta"), Unfilled():
            if is_text:
                config = transformers.AutoConfig.from_pretrained(source.folder / part, local_files_only=True)
            return kind(config) if is_text else kind.from_config(config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source.folder}: no {name} can be made from {part}/config.json ({error}).") from error


def has_module(source: ModelSource, part: str, pattern: str) -> bool:
    """Whether a part of a model has a module of a name that the pattern matches whole."""
    return any(re.fullmatch(pattern, name) for name, _ in part_on_meta(source, part).named_modules())


def layer_shapes(family: Family) -> Layers:
    """The weight of every linear and convolutional layer of the denoiser and the text encoders that can learn."""
    encoders = [name for name in family.trainable_encoders if family.source.has(name)]
    return {
        component: {name: tuple(m.weight.shape) for name, m in model.named_modules() if isinstance(m, ADAPTABLE)}
        for component, model in on_meta(family, encoders).items()
    }
