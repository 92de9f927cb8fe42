"""Starting from an adapter that is there (--init_lora): its layers, ranks and alphas, then its weights."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from pipeline.adapter import files, lora
from pipeline.adapter.adapted import Adapted
from pipeline.adapter.files import AdapterFile
from pipeline.adapter.layers import Site, sites_of
from pipeline.adapter.options import AdapterOptions
from pipeline.adapter.resize import MAGNITUDE, A
from pipeline.errors import ConfigError
from pipeline.families.base import Family


def chosen(family: Family, models: Mapping[str, nn.Module], options: AdapterOptions) -> dict[str, list[Site]]:
    """The layers to adapt of each model: those of --init_lora, or else those the options name.

    Raises ConfigError or CheckpointError for a file that is not fit for these models.
    """
    if options.init_lora is None:
        return sites_of({name: (model, family.targets_of(name)) for name, model in models.items()}, options)
    file = read(family, options.init_lora)
    parts = {name.split(".")[0] for name in file.alphas}
    if parts - models.keys():
        raise ConfigError(f"--init_lora {options.init_lora} adapts text encoders too: give --train_text_encoder.")
    if models.keys() - parts:
        raise ConfigError(f"--init_lora {options.init_lora} has nothing for the text encoders: it cannot start them.")
    found: dict[str, list[Site]] = {component: [] for component in models}
    use_dora = any(name.endswith(MAGNITUDE) for name in file.tensors)
    for number, (component, model) in enumerate(models.items()):
        prefix = f"{component}." if number else ""
        for name, layer in model.named_modules():
            if (alpha := file.alphas.get(f"{component}.{name}")) is not None:
                rank = len(file.tensors[f"{component}.{name}{A}"])
                found[component].append(Site(name, layer, rank, alpha, False, use_dora and not prefix, prefix))
    ranks = {site.rank for sites in found.values() for site in sites}
    if options.rank != AdapterOptions.rank and ranks != {options.rank}:
        said = ", ".join(str(rank) for rank in sorted(ranks))
        raise ConfigError(f"--rank {options.rank}: {options.init_lora} has {said}, which is kept; leave --rank out.")
    return found


def read(family: Family, path: str) -> AdapterFile:
    """The adapter to start from, checked against the base model."""
    return files.read(Path(path), files.shapes_of(family))


@torch.no_grad()
def put(adapted: Adapted, file: AdapterFile) -> None:
    """Give the live adapter the weights of a file: in the file B holds the strength, in the live one it does not."""
    for component, model in adapted.models.items():
        scales = lora.scales(model)
        for name, value in lora.parameters(model).items():
            layer, _, kind = name.replace(f".{lora.NAME}.", ".").rpartition(".lora_")
            ending = kind.removesuffix(".weight") if kind.startswith("magnitude") else kind
            told = file.tensors[f"{component}.{layer}.lora_{ending}"]
            value.copy_(told / scales[layer] if kind.startswith("B") else told)
