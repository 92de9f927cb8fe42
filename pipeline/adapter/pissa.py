"""PiSSA's start (Meng et al. 2024) with a base that stays as it is.

A and B begin as the largest singular parts of the weight, W = (W - s B0 A0) + s B A. The paper moves
W - s B0 A0 into the base. Here a second, frozen adapter subtracts s B0 A0 instead, so that switching
adapters off gives the base, and the exported file says B A - B0 A0, of twice the rank.
"""

from typing import Any

import torch
from torch import Tensor

ORIGIN = "origin"  # the name of the frozen adapter


def principal(weight: Tensor, rank: int, scale: float, seed: int) -> tuple[Tensor, Tensor]:
    """A [r, inputs...] and B [outputs, r, ...] with scale B A the best approximation of the weight of this rank.

    A weight has no more singular values than rows or columns. What the rank has beyond them begins as everywhere: A
    normal with deviation 1 / rank, B zero.
    """
    flat = weight.detach().float().reshape(len(weight), -1)
    extra = min(rank + 8, *flat.shape)  # some more columns than asked for make the leading ones accurate
    with torch.random.fork_rng(devices=[weight.device] if weight.device.type == "cuda" else []):
        torch.manual_seed(seed)
        u, s, v = torch.svd_lowrank(flat, q=extra, niter=8)
        more = torch.randn(max(0, rank - len(s)), flat.shape[1], device=flat.device) / rank
    root = (s[:rank] / scale).sqrt()
    a = torch.cat([root[:, None] * v[:, :rank].T, more])
    b = torch.cat([u[:, :rank] * root, flat.new_zeros(len(flat), len(more))], 1)
    return a.reshape(rank, *weight.shape[1:]), b.reshape(len(weight), rank, *(1,) * (weight.ndim - 2))


def start(model: Any, adapter: str, seed: int) -> None:
    """Give both adapters of every layer their principal parts, the frozen one with the sign turned."""
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if not isinstance(module, LoraLayer) or adapter not in module.scaling:
            continue
        layer: Any = module
        weight, scale = layer.get_base_layer().weight, float(layer.scaling[adapter])
        a, b = principal(weight, layer.r[adapter], scale, seed)
        for name, sign in ((adapter, 1.0), (ORIGIN, -1.0)):
            layer.lora_A[name].weight.data = a.clone().to(weight.device)
            layer.lora_B[name].weight.data = (sign * b).to(weight.device)
