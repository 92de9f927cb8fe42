"""Adapters at a smaller rank, and DoRA as plain additions, with what is lost of each block."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from pipeline.adapter.files import arithmetic, differences, layouts, summary
from pipeline.adapter.files.reader import AdapterFile
from pipeline.adapter.names import A, B, is_magnitude, layer_of, pairs
from pipeline.console import quiet_libraries
from pipeline.errors import ConfigError
from pipeline.families.base import Family
from pipeline.families.meta import Layers

DIFFERENCE = ".diff"  # ComfyUI's name for what is added whole
WeightsOf = Callable[[Collection[str]], Mapping[str, Tensor]]  # those of the base, by '<component>.<layer>'


def has_dora(file: AdapterFile) -> bool:
    """Whether a layer has a magnitude."""
    return any(is_magnitude(name) for name in file.tensors)


def cut(file: AdapterFile, rank: int, weights_of: WeightsOf) -> tuple[AdapterFile, list[str]]:
    """The adapter with no layer above `rank`, DoRA as a plain LoRA, and what is lost of each block, in words."""
    whole = _whole(file, weights_of) if has_dora(file) else {}
    plain = {name: value for name, value in file.tensors.items() if layer_of(name) not in whole}
    tensors, errors = arithmetic.resized(plain, rank)
    sizes = {name: arithmetic.norm(*pair) for name, pair in pairs(plain).items()}
    reduced, lost = differences.of_rank(whole, rank)
    tensors, errors = tensors | reduced, errors | lost
    sizes |= {name: float(value.norm()) for name, value in whole.items()}
    alphas = {name: float(len(a)) for name, (a, _) in pairs(tensors).items()}
    header = summary.with_rank(file.header, max(len(a) for a, _ in pairs(tensors).values()))
    return dataclasses.replace(file, tensors=tensors, alphas=alphas, header=header), shares_lost(sizes, errors)


def shares_lost(sizes: Mapping[str, float], errors: Mapping[str, float]) -> list[str]:
    """What each block has lost as a share of its size, from the norm of each layer and its relative error."""
    blocks: dict[str, list[str]] = {}
    for name in errors:
        blocks.setdefault(summary.block_of(name), []).append(name)
    reduced = {block: names for block, names in blocks.items() if any(errors[name] for name in names)}
    width = max(map(len, reduced), default=0)
    lines = []
    for block, names in reduced.items():
        size = math.hypot(*(sizes[name] for name in names))
        lost = math.hypot(*(errors[name] * sizes[name] for name in names))
        lines.append(f"  {block:<{width}}  {lost / size:.2%} lost")
    return lines


def whole_for_comfyui(
    file: AdapterFile, family: type[Family], layers: Layers, weights_of: WeightsOf
) -> dict[str, Tensor]:
    """A DoRA adapter as ComfyUI reads it: what it adds to each weight, [outputs, inputs, ...], whole.

    For a family that has layers fused in ComfyUI `are_fused` says no.
    """
    assert not are_fused(family), "there is no place for whole differences"
    whole = _whole(file, weights_of)
    plain = {name: value for name, value in file.tensors.items() if layer_of(name) not in whole}
    result = layouts.to_layout("comfyui", plain, file.alphas, family, layers) if plain else {}
    for name, value in whole.items():
        ones = [1] * (value.ndim - 2)
        pair = {f"{name}{A}": torch.empty(1, *value.shape[1:]), f"{name}{B}": torch.empty(len(value), 1, *ones)}
        (stem, *_) = layouts.to_layout("comfyui", pair, {}, family, layers)
        result[f"{stem.rpartition('.lora_')[0]}{DIFFERENCE}"] = value.contiguous()
    return result


def are_fused(family: type[Family]) -> bool:
    """Whether ComfyUI has several of a family's layers in one, so that it gets products alone."""
    return family.comfyui_knows_original_names and not family.comfyui_prefixes


def loaded(family: Family | None) -> WeightsOf:
    """The weights of a base, read from its files when they are asked for. Raises ConfigError where no base is given."""
    if family is None:
        raise ConfigError(
            "What a DoRA adapter adds depends on the weights of its base model: give its folder with --base."
        )

    def weights_of(names: Collection[str]) -> dict[str, Tensor]:
        with quiet_libraries():
            pipe = family.load(*sorted({name.partition(".")[0] for name in names}))
        places = {name: name.partition(".") for name in names}
        return {name: getattr(pipe, part).get_submodule(layer).weight for name, (part, _, layer) in places.items()}

    return weights_of


@torch.no_grad()
def _whole(file: AdapterFile, weights_of: WeightsOf) -> dict[str, Tensor]:
    """What each layer with a magnitude adds to its weight, in float32."""
    names = {layer_of(name) for name in file.tensors if is_magnitude(name)}
    own = {name: value for name, value in file.tensors.items() if layer_of(name) in names}
    return differences.differences(own, weights_of(names))
