"""PiSSA's start (Meng et al. 2024) with a base that stays as it is.

A and B begin as the largest singular parts of the weight, W = (W - s B0 A0) + s B A. The paper moves
W - s B0 A0 into the base. Here a second, frozen adapter subtracts s B0 A0 instead, so that switching
adapters off gives the base, and the exported file says B A - B0 A0, of twice the rank.
"""

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

ORIGIN = "origin"  # the name of the frozen adapter


def principal(weight: Tensor, rank: int, scale: float, seed: int) -> tuple[Tensor, Tensor]:
    """A [r, inputs...] and B [outputs, r, ...] with scale B A the best approximation of the weight of this rank.

    A weight has no more singular values than rows or columns. What the rank has beyond them begins as everywhere: A
    normal with deviation 1 / rank, B zero.
    """
    flat = weight.detach().float().reshape(len(weight), -1)
    extra = min(rank + 8, *flat.shape)  # some more columns than asked for make the leading ones accurate
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(seed))  # on no device's own
    u, s, v = _largest(flat, draw(min(flat.shape), extra).to(flat.device))
    more = draw(max(0, rank - len(s)), flat.shape[1]).to(flat.device) / rank
    root = (s[:rank] / scale).sqrt()
    a = torch.cat([root[:, None] * v[:, :rank].T, more])
    b = torch.cat([u[:, :rank] * root, flat.new_zeros(len(flat), len(more))], 1)
    return a.reshape(rank, *weight.shape[1:]), b.reshape(len(weight), rank, *(1,) * (weight.ndim - 2))


def _largest(
    weight: Float[Tensor, "m n"], draws: Float[Tensor, "k q"], num_iterations: int = 8
) -> tuple[Float[Tensor, "m q"], Float[Tensor, " q"], Float[Tensor, "n q"]]:
    """U, S and V of the largest singular values, by subspace iteration (Halko et al. 2011, algorithms 4.4 and 5.1).

    As `torch.svd_lowrank`, but from draws that are given: what it finds depends on them where singular values are
    close, and a device's own would begin a resumed run at another base than the run began at.
    """
    if len(weight) < weight.shape[1]:
        v, s, u = _largest(weight.T, draws, num_iterations)
        return u, s, v
    basis = torch.linalg.qr(weight @ draws).Q
    for _ in range(num_iterations):
        basis = torch.linalg.qr(weight @ torch.linalg.qr(weight.T @ basis).Q).Q
    u, s, vh = torch.linalg.svd(basis.T @ weight, full_matrices=False)
    return basis @ u, s, vh.T


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
