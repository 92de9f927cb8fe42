"""The file that is handed over: diffusers' own layout, with the strength baked in.

diffusers takes alpha = rank where a file does not say otherwise, and other programs never look
elsewhere. So B is multiplied by alpha / rank before it is written, and the file means the same
everywhere at strength 1.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline import durable
from pipeline.adapter import lora

FILE = "pytorch_lora_weights.safetensors"


def canonical(denoiser: Any, component: str) -> dict[str, Tensor]:
    """The adapter as diffusers loads it: '<component>.<layer>.lora_A.weight', B scaled."""
    scales = lora.scales(denoiser)
    tensors = {}
    for name, value in lora.state(denoiser).items():
        layer, _, kind = name.rpartition(".lora_")
        tensors[f"{component}.{name}"] = value * scales[layer] if kind.startswith("B") else value
    return tensors


def write(folder: Path, denoiser: Any, component: str, note: str) -> Path:
    """Write the canonical file into `folder`, durably; equal adapters give equal bytes."""
    path = folder / FILE
    durable.write_tensors(path, canonical(denoiser, component), note)
    return path
