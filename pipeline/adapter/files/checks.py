"""What is wrong with the tensors of an adapter's file, in words."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipeline.adapter.names import ALPHA, MAGNITUDE, A, B, is_b, pairs
from pipeline.errors import CheckpointError

MAX_ALPHA = 1024  # times the rank: training needs less, and headers are easily forged


def tensor_problems(tensors: Mapping[str, Tensor]) -> list[str]:
    """What no adapter should have: numbers that are not finite, and a B of zeros."""
    zero = [name for name, value in tensors.items() if is_b(name) and not value.any()]
    return not_finite(tensors) + [f"{name} is zero: the layer adds nothing" for name in zero]


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Tensors with numbers that are none, with which nothing can be computed."""
    return [f"{name} is not finite" for name, value in tensors.items() if not torch.isfinite(value).all()]


def alpha_problems(tensors: Mapping[str, Tensor], alphas: Mapping[str, float]) -> list[str]:
    """Alphas that no training sets."""
    ranks = {name: len(a) for name, (a, _) in pairs(tensors).items()}
    return [
        f"{name}: alpha is {alpha:g} at rank {ranks[name]}; more than {MAX_ALPHA} times the rank is not believed"
        for name, alpha in alphas.items()
        if not abs(alpha) <= MAX_ALPHA * ranks[name]
    ]


def misfits(tensors: dict[str, Tensor]) -> list[str]:
    """What keeps tensors from being whole pairs of A and B of one rank, each layer of a component of one kind."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind = next(kind for kind in (A, B, MAGNITUDE, ALPHA) if key.endswith(kind))
        found.setdefault(key.removesuffix(kind), {})[kind] = value
    dora = {name.partition(".")[0] for name, parts in found.items() if MAGNITUDE in parts}
    return [
        f"{name}: {problem}"
        for name, parts in found.items()
        if (problem := _misfit(parts, whole_dora=name.partition(".")[0] in dora))
    ]


def unlike(a: Tensor, b: Tensor, name: str, shape: tuple[int, ...] | None) -> str | None:
    """How a layer's A [rank in ...] and B [out rank ...] differ from those of a base weight of `shape`, in words.

    None: they fit.
    """
    if shape is None or min(a.ndim, b.ndim) < 2:
        return None
    own_kernel, kernel = (" x ".join(map(str, sides)) or "no" for sides in (a.shape[2:], shape[2:]))
    sizes = ("inputs", a.shape[1], shape[1]), ("outputs", len(b), shape[0]), ("kernel", own_kernel, kernel)
    for what, own, expected in sizes:
        if own != expected:
            return f"it has {own} {what} at {name} where this base has {expected}"
    return None


def _misfit(parts: dict[str, Tensor], *, whole_dora: bool) -> str | None:
    missing = [kind.removeprefix(".") for kind in (A, B) if kind not in parts]
    if missing:
        return f"lacks its {' and its '.join(missing)}"
    a, b = parts[A], parts[B]
    if a.ndim not in (2, 4) or b.ndim != a.ndim or b.shape[1] != a.shape[0] or b.shape[2:].numel() != 1:
        return f"B of {list(b.shape)} does not fit A of {list(a.shape)}"
    if whole_dora != (MAGNITUDE in parts):
        return "has no magnitude, which other layers have (DoRA)"
    if MAGNITUDE in parts and parts[MAGNITUDE].numel() != len(b):
        return f"{parts[MAGNITUDE].numel()} magnitudes do not fit {len(b)} outputs"
    alpha = parts.get(ALPHA, torch.ones(()))
    if alpha.numel() != 1 or not math.isfinite(alpha.item()) or alpha.item() == 0:
        return "alpha must be one number that is not 0"
    return None


def require_same_model(
    path: Path, found: dict[str, tuple[Tensor, Tensor]], base: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise CheckpointError, one sentence, where a layer has other sizes or most layers of some part do not exist."""
    parts = defaultdict[str, list[str]](list)
    for name, (a, b) in found.items():
        parts[re.findall(r"lora_[^_]+|[^.]+", name)[0]].append(name)
        if difference := unlike(a, b, name, base.get(name)):
            raise CheckpointError(f"{path} is for another model: {difference}.")
    for own in parts.values():
        missing = [name for name in own if name not in base]
        if 2 * len(missing) >= len(own):
            which = f"{len(missing)} of its {len(own)} layers, such as {missing[0]}, are not in this base"
            raise CheckpointError(f"{path} is for another model: {which}.")
