"""The adapter's file: diffusers' own format, with the scale folded into B.

diffusers assumes alpha = rank unless the header says otherwise; other programs do not read that header. So B is
multiplied by alpha / rank before it is written, and the file means the same everywhere at scale 1.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline import atomic
from pipeline.adapter import lora, pissa
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.files import cutting, foreign, kohya, layouts, reader
from pipeline.adapter.files.original import Pair
from pipeline.adapter.files.peft_config import commonest
from pipeline.adapter.names import FILE, A, as_in_files, is_a, is_b, layer_of, pairs
from pipeline.errors import TrainingStopped, listed
from pipeline.families.base import Family


def state_dict(adapted: AdaptedModels) -> dict[str, Tensor]:
    """The adapter as diffusers loads it, on the CPU, B scaled."""
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
        whole = torch.cat([value, origin[name]], dim=1 if is_b(name) else 0) if name in origin else value
        tensors[name] = whole * scales[layer_of(name)] if is_b(name) else whole
    return tensors


def write(folder: Path, adapted: AdaptedModels, note: str) -> Path:
    """Write the adapter's file into `folder`, durably; equal adapters give equal bytes."""
    path = folder / FILE
    atomic.write_tensors(path, as_in_files(state_dict(adapted)), {"t2i_lora": note})
    return path


def alphas_of(adapted: AdaptedModels, tensors: dict[str, Tensor]) -> dict[str, float]:
    """The alpha of every layer, by its name: what scales it, times the rank that its `tensors` have in the file."""
    return {
        f"{component}.{layer}": scale * len(tensors[f"{component}.{layer}{A}"])
        for component, model in adapted.models.items()
        for layer, scale in lora.scales(model).items()
    }


def rank_and_alpha(adapted: AdaptedModels) -> tuple[int, float]:
    """The largest rank, and the commonest alpha, as the files have them: PiSSA doubles the one, rsLoRA scales more."""
    tensors = state_dict(adapted)
    ranks = [len(value) for name, value in tensors.items() if is_a(name)]
    alphas = [round(alpha, 6) for alpha in alphas_of(adapted, tensors).values()]
    return max(ranks), commonest(alphas)


def write_for_comfyui(
    path: Path, adapted: AdaptedModels, family: type[Family], header: dict[str, str], rank: int | None = None
) -> list[str]:
    """Write the same adapter as ComfyUI reads it, with its true alphas, and prove it by reading it back.

    ComfyUI computes DoRA otherwise, so that is written as plain additions: with `rank` as products of it, else whole.
    Returns what is lost of each block by that. Raises TrainingStopped if what comes back is not what was written.
    """
    tensors, lost = state_dict(adapted), list[str]()
    layers = {component: lora.every_layer(model) for component, model in adapted.models.items()}
    file = reader.AdapterFile(tensors, alphas_of(adapted, tensors), "diffusers", {}, path)
    if cutting.has_dora(file):
        header = {name: value for name, value in header.items() if name not in kohya.RANK_AND_ALPHA}  # of the DoRA
        if rank is None:
            return _write_whole(path, cutting.whole_for_comfyui(file, family, layers, _weights_of(adapted)), header)
        file, lost = cutting.cut(file, rank, _weights_of(adapted))
        largest = max(len(a) for a, _ in pairs(file.tensors).values())
        header |= dict.fromkeys(kohya.RANK_AND_ALPHA, str(largest))
    written = layouts.to_layout("comfyui", file.tensors, file.alphas, family, layers)
    atomic.write_tensors(path, written, {**header, "modelspec.hash_sha256": kohya.digest(written)})
    if family.comfyui_prefixes:
        names = {component: sorted(shapes) for component, shapes in layers.items()}
        back = pairs(kohya.from_kohya(load_file(path), family.comfyui_prefixes, names)[0])
    elif family.comfyui_reads_diffusers:
        back = pairs(reader.read(path, layers).tensors)
    else:
        found = pairs(foreign.converted(path, load_file(path)))
        back = {name: (a, b) for name, (a, b) in found.items() if b.any()}  # what is fused has parts of zeros
    own = pairs(file.tensors)
    wrong = [name for name in own.keys() & back.keys() if not _alike(own[name], back[name])]
    _require_none(path, [*wrong, *(own.keys() ^ back.keys())])
    return lost


def _write_whole(path: Path, written: dict[str, Tensor], header: dict[str, str]) -> list[str]:
    atomic.write_tensors(path, written, {**header, "modelspec.hash_sha256": kohya.digest(written)})
    back = load_file(path)
    wrong = [name for name in written.keys() & back.keys() if not torch.equal(written[name], back[name])]
    _require_none(path, [*wrong, *(written.keys() ^ back.keys())])
    return []


def _require_none(path: Path, wrong: list[str]) -> None:
    if wrong:
        raise TrainingStopped(f"{path} does not read back as it was written:\n{listed(sorted(wrong))}")


def _weights_of(adapted: AdaptedModels) -> cutting.WeightsOf:
    """The base's weights under a live adapter, on the CPU."""

    def found(names: Collection[str]) -> dict[str, Tensor]:
        weights = {}
        for name in names:
            component, _, layer = name.partition(".")
            weights[name] = adapted.models[component].get_submodule(layer).get_base_layer().weight.detach().cpu()
        return weights

    return found


def _alike(first: Pair, second: Pair) -> bool:
    """Whether A and B are the same: of PiSSA the product is so much smaller that it says less."""
    return all(
        own.shape == other.shape and torch.allclose(own, other, rtol=1e-6)
        for own, other in zip(first, second, strict=True)
    )
