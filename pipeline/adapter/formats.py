"""The file that is handed over: diffusers' own layout, with the strength baked in.

diffusers takes alpha = rank where a file does not say otherwise, and other programs never look
elsewhere. So B is multiplied by alpha / rank before it is written, and the file means the same
everywhere at strength 1.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline import durable
from pipeline.adapter import lora, pissa
from pipeline.adapter.adapted import Adapted

FILE = "pytorch_lora_weights.safetensors"


def canonical(adapted: Adapted) -> dict[str, Tensor]:
    """The adapter as diffusers loads it: '<component>.<layer>.lora_A.weight', B scaled."""
    return {
        f"{component}.{name}": value
        for component, model in adapted.models.items()
        for name, value in _scaled(model).items()
    }


def _scaled(model: Any) -> dict[str, Tensor]:
    scales = lora.scales(model)
    origin = lora.state(model, pissa.ORIGIN) if pissa.ORIGIN in model.peft_config else {}
    tensors = {}
    for name, value in lora.state(model).items():
        layer, _, kind = name.rpartition(".lora_")
        whole = torch.cat([value, origin[name]], dim=1 if kind.startswith("B") else 0) if name in origin else value
        tensors[name] = whole * scales[layer] if kind.startswith("B") else whole
    return tensors


def write(folder: Path, adapted: Adapted, note: str) -> Path:
    """Write the canonical file into `folder`, durably; equal adapters give equal bytes."""
    path = folder / FILE
    durable.write_tensors(path, canonical(adapted), note)
    return path
