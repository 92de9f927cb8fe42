"""LoHa and LoKr as a LoRA: what they add is formed whole and cut to a rank, and what is lost of it is said.

LoHa (Hyeon-Woo et al. 2022) adds (A1 B1) * (A2 B2), element by element; LoKr (Yeh et al. 2023) the Kronecker product of
two matrices, each of which may be a product itself. Both scale by alpha over the rank of those products; a LoKr of two
whole matrices is not scaled.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipeline.adapter.files.differences import of_rank
from pipeline.adapter.names import ALPHA, A, B
from pipeline.errors import CheckpointError

_PART = re.compile(r"(.+)\.(hada_w[12]_[ab]|lokr_w[12](?:_[ab])?)")
_DOWN, _UP = ".lora_down.weight", ".lora_up.weight"
Parts = Mapping[str, Tensor]


def as_lora(path: Path, tensors: dict[str, Tensor], rank: int) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors with every LoHa and LoKr as lora_down and lora_up of a rank, and a note of what is lost.

    Raises CheckpointError that names a layer whose parts are not complete.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if match := _PART.fullmatch(name):
            found.setdefault(match[1], {})[match[2]] = value.double()
    if not found:
        return tensors, []
    whole = {}
    for stem, parts in found.items():
        try:
            whole[stem] = _whole(
                parts, float(tensors[f"{stem}{ALPHA}"].item()) if f"{stem}{ALPHA}" in tensors else None
            )
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"{path}: the parts of {stem} make no LoHa or LoKr: {', '.join(parts)}.") from error
    reduced, lost = of_rank(whole, rank)
    renamed = {name.replace(A, _DOWN).replace(B, _UP): value.float() for name, value in reduced.items()}
    rest = {
        name: value
        for name, value in tensors.items()
        if not _PART.fullmatch(name) and not (name.endswith(ALPHA) and name.removesuffix(ALPHA) in found)
    }
    sizes = {stem: float(value.norm()) for stem, value in whole.items()}
    missing = sum((lost[stem] * sizes[stem]) ** 2 for stem in whole) ** 0.5
    total = sum(size**2 for size in sizes.values()) ** 0.5
    worst = max(lost, key=lambda stem: lost[stem])
    kind = "LoHa" if any("hada" in part for parts in found.values() for part in parts) else "LoKr"
    note = f"{kind} of {len(whole)} layers made a LoRA of rank {rank}: {missing / (total or 1):.2%} of it lost"
    return rest | renamed, [f"{note}, at most {lost[worst]:.2%}, of {worst}"]


def _whole(parts: Parts, alpha: float | None) -> Tensor:
    """What one layer adds, [outputs, inputs, ...]."""
    if "hada_w1_a" in parts:
        inner = parts["hada_w1_b"]
        scale = 1.0 if alpha is None else alpha / len(inner)
        return scale * (parts["hada_w1_a"] @ inner) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    ranks = [len(parts[f"{name}_b"]) for name in ("lokr_w1", "lokr_w2") if f"{name}_b" in parts]
    first, second = (
        parts[name] if name in parts else parts[f"{name}_a"] @ parts[f"{name}_b"] for name in ("lokr_w1", "lokr_w2")
    )
    scale = alpha / ranks[-1] if alpha is not None and ranks else 1.0
    return scale * torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second)
