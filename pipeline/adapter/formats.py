"""The file that is handed over: diffusers' own layout, with the strength baked in.

diffusers takes alpha = rank where a file does not say otherwise, and other programs never look
elsewhere. So B is multiplied by alpha / rank before it is written, and the file means the same
everywhere at strength 1.
"""

from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline import atomic
from pipeline.adapter import kohya, lora, pissa
from pipeline.adapter.adapted import Adapted
from pipeline.errors import TrainingStopped, listed

FILE = "pytorch_lora_weights.safetensors"
Value = TypeVar("Value")


def canonical(adapted: Adapted) -> dict[str, Tensor]:
    """The adapter as diffusers loads it, on the CPU: '<component>.<layer>.lora_A.weight', B scaled."""
    return {
        f"{component}.{name}": value.cpu()
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
    atomic.write_tensors(path, spelled(canonical(adapted)), {"t2i_lora": note})
    return path


def spelled(values: dict[str, Value]) -> dict[str, Value]:
    """Values by canonical names, with CLIP's layers called as in transformers 4.

    ComfyUI looks for these names, and diffusers loads them with transformers 4 and 5.
    """
    return {
        f"{component}.{kohya.with_text_model(layer)}": value
        for (component, _, layer), value in ((name.partition("."), value) for name, value in values.items())
    }


def alphas_of(adapted: Adapted) -> dict[str, float]:
    """The alpha of every layer, by its name: what scales it, times the rank that its file has."""
    tensors = canonical(adapted)
    return {
        f"{component}.{layer}": scale * len(tensors[f"{component}.{layer}.lora_A.weight"])
        for component, model in adapted.models.items()
        for layer, scale in lora.scales(model).items()
    }


def strength(adapted: Adapted) -> tuple[int, float]:
    """The largest rank, and the commonest alpha, as the files have them: PiSSA doubles the one, rsLoRA scales more."""
    ranks = [len(value) for name, value in canonical(adapted).items() if ".lora_A." in name]
    alphas = [round(alpha, 6) for alpha in alphas_of(adapted).values()]
    return max(ranks), max(sorted(set(alphas)), key=alphas.count)


def write_for_comfyui(path: Path, adapted: Adapted, prefixes: dict[str, str], header: dict[str, str]) -> None:
    """Write the same adapter as ComfyUI reads it, with its true alphas, and prove it by reading it back.

    Raises TrainingStopped if what comes back is not what was written, ConfigError for DoRA, which ComfyUI
    computes otherwise.
    """
    tensors, alphas = canonical(adapted), alphas_of(adapted)
    written = kohya.to_kohya(tensors, prefixes, alphas)
    atomic.write_tensors(path, written, {**header, "modelspec.hash_sha256": kohya.digest(written)})
    layers = {component: sorted(lora.every_layer(model)) for component, model in adapted.models.items()}
    back, _ = kohya.from_kohya(load_file(path), prefixes, layers)
    wrong = [name for name in tensors if name not in back or not torch.allclose(back[name], tensors[name], rtol=1e-6)]
    if wrong or back.keys() != tensors.keys():
        raise TrainingStopped(f"{path} does not read back as it was written:\n{listed(wrong or sorted(back))}")
