"""Starting from an adapter that is there (--init_lora): its layers, ranks and alphas, then its weights."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from pipeline.adapter import lora
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.files import reader
from pipeline.adapter.files.reader import AdapterFile
from pipeline.adapter.layers import TargetModule, target_modules_of
from pipeline.adapter.names import A, in_file, is_b, is_magnitude, layer_of
from pipeline.adapter.options import AdapterOptions
from pipeline.console import tell
from pipeline.errors import ConfigError
from pipeline.families.base import Family
from pipeline.families.meta import layer_shapes


def chosen(family: Family, models: Mapping[str, nn.Module], options: AdapterOptions) -> dict[str, list[TargetModule]]:
    """The layers to adapt of each model: those of --init_lora, or else those the options name.

    Raises ConfigError or CheckpointError for a file that is not fit for these models.
    """
    if options.init_lora is None:
        return target_modules_of({name: (model, family.targets_of(name)) for name, model in models.items()}, options)
    file = read(family, options.init_lora)
    parts = {name.split(".")[0] for name in file.alphas}
    if family.denoiser not in parts:
        raise ConfigError(
            f"--init_lora {options.init_lora} adapts {' and '.join(sorted(parts))} alone and has no layer of the "
            f"{family.denoiser}, which every run trains; leave it out, or give an adapter of both."
        )
    if parts - models.keys():
        raise ConfigError(f"--init_lora {options.init_lora} adapts text encoders too: give --train_text_encoder.")
    if missing := sorted(models.keys() - parts):
        raise ConfigError(
            f"--init_lora {options.init_lora} has nothing for {' and '.join(missing)}: it cannot start what "
            "--train_text_encoder trains."
        )
    found: dict[str, list[TargetModule]] = {component: [] for component in models}
    use_dora = any(is_magnitude(name) for name in file.tensors)
    for number, (component, model) in enumerate(models.items()):
        prefix = f"{component}." if number else ""
        for name, layer in model.named_modules():
            if (alpha := file.alphas.get(f"{component}.{name}")) is not None:
                rank = len(file.tensors[f"{component}.{name}{A}"])
                found[component].append(TargetModule(name, layer, rank, alpha, False, use_dora and not prefix, prefix))
    ranks = {module.rank for modules in found.values() for module in modules}
    if options.rank != AdapterOptions.rank and ranks != {options.rank}:
        ranks_given = ", ".join(str(rank) for rank in sorted(ranks))
        raise ConfigError(
            f"--rank {options.rank}: {options.init_lora} has {ranks_given}, which is kept; leave --rank out."
        )
    return found


def read(family: Family, path: str) -> AdapterFile:
    """The adapter to start from, checked against the base model."""
    return reader.read(Path(path), layer_shapes(family))


@torch.no_grad()
def put(adapted: AdaptedModels, file: AdapterFile) -> None:
    """Give the live adapter the weights of a file: in the file B holds the scale, in the live one it does not."""
    for note in file.notes:
        tell(f"--init_lora {file.path}: {note}")
    for component, model in adapted.models.items():
        scales = lora.scales(model)
        for name, value in lora.parameters(model).items():
            given = file.tensors[f"{component}.{in_file(name)}"]
            value.copy_(given / scales[layer_of(name)] if is_b(name) else given)
