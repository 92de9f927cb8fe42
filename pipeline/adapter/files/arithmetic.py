"""Arithmetic on adapters in diffusers' format: their sum, smaller ranks. The full matrix is never formed.

B A of a layer is outputs x inputs and has rank r at most. With B = Q S and A^T = P T (QR), it is
Q (S T^T) P^T: the small matrix in the middle has its singular values and its norm. All of this is done
in float64. Of a convolution, A holds the kernel: [r, inputs, height, width], and B is [outputs, r, 1, 1].
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.adapter.names import MAGNITUDE, A, B, is_magnitude, pairs
from pipeline.errors import CheckpointError, ConfigError, listed


def norm(a: Float[Tensor, "r i *kernel"], b: Float[Tensor, "o r *ones"]) -> float:
    """The Frobenius norm of B A."""
    _, s = torch.linalg.qr(b.detach().double().flatten(1), mode="r")
    _, t = torch.linalg.qr(a.detach().double().flatten(1).T, mode="r")
    return float((s @ t.T).norm())


def distance(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """The norm of B A of one layer minus that of another; each is A [r, inputs...] and B [outputs, r, ...]."""
    (a, b), (other_a, other_b) = first, second
    return norm(torch.cat([a.double(), other_a.double()]), torch.cat([b.double(), -other_b.double()], dim=1))


def merged(parts: Sequence[tuple[dict[str, Tensor], float]]) -> dict[str, Tensor]:
    """The weighted sum of adapters, exactly: ranks add up, and B carries the weights.

    Layers that only some adapters have are kept; an adapter of weight 0 has no part in it. The result is in
    float32 at least. Raises ConfigError for weights that make no sum and for DoRA, CheckpointError for
    adapters of different models.
    """
    _refuse_dora([tensors for tensors, _ in parts], "a sum of DoRA adapters is no adapter")
    if not all(math.isfinite(weight) for _, weight in parts) or not any(weight for _, weight in parts):
        given = ", ".join(f"{weight:g}" for _, weight in parts)
        raise ConfigError(f"The weights {given} make no sum; give numbers that are not all 0, as in 0.7.")
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for tensors, weight in parts:
        for name, (a, b) in pairs(tensors).items() if weight else ():
            wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
            found.setdefault(name, []).append((a.to(wide), b.to(wide) * weight))
    problems = [problem for name, several in found.items() for problem in _of_two_sizes(name, several)]
    if problems:
        raise CheckpointError(f"These adapters are for different models:\n{listed(problems)}")
    total = {}
    for name, several in found.items():
        total[f"{name}{A}"] = torch.cat([a for a, _ in several])
        total[f"{name}{B}"] = torch.cat([b for _, b in several], dim=1)
    return total


def resized(tensors: dict[str, Tensor], rank: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The adapter nearest to another with no layer above `rank` (Eckart and Young 1936).

    Also how much of each layer is lost, by '<component>.<layer>': ||B A - B' A'|| / ||B A||, Frobenius norms.
    A layer that is small enough stays bit for bit what it was. Raises ConfigError for a rank below 1 and for DoRA.
    """
    if rank < 1:
        raise ConfigError(f"--rank {rank} must be at least 1.")
    _refuse_dora([tensors], "what a smaller rank loses of it depends on the base model")
    result, errors = dict(tensors), {}
    for name, (a, b) in pairs(tensors).items():
        errors[name] = 0.0
        if len(a) > rank:
            result[f"{name}{A}"], result[f"{name}{B}"], errors[name] = _truncated(a, b, rank)
    return result, errors


def _truncated(
    a: Float[Tensor, "r i *kernel"], b: Float[Tensor, "o r *ones"], rank: int
) -> tuple[Tensor, Tensor, float]:
    """A and B of a smaller rank, the singular values shared out evenly, and the relative error."""
    q, s = torch.linalg.qr(b.detach().double().flatten(1))
    p, t = torch.linalg.qr(a.detach().double().flatten(1).T)
    u, sigma, v = torch.linalg.svd(s @ t.T, full_matrices=False)
    whole, lost = float(sigma.norm()), float(sigma[rank:].norm())
    root = sigma[:rank].sqrt()
    small_a, small_b = root[:, None] * (v[:rank] @ p.T), (q @ u[:, :rank]) * root
    return (
        small_a.reshape(-1, *a.shape[1:]).to(a.dtype),
        small_b.reshape(len(b), -1, *b.shape[2:]).to(b.dtype),
        lost / whole if whole else 0.0,
    )


def _refuse_dora(adapters: Sequence[dict[str, Tensor]], reason: str) -> None:
    names = [name for tensors in adapters for name in tensors if is_magnitude(name)]
    if names:
        raise ConfigError(
            f"DoRA scales the base and the addition together, so {reason}; give adapters without it. It is in "
            f"{len(names)} layers, such as {names[0].removesuffix(MAGNITUDE)}."
        )


def _of_two_sizes(name: str, several: list[tuple[Tensor, Tensor]]) -> list[str]:
    """What is wrong where one layer's A and B have other sizes in another adapter."""
    shapes = [(b.shape[0], *a.shape[1:]) for a, b in several]
    if len(set(shapes)) == 1:
        return []
    return [f"{name}: weights of {' and '.join(str(list(shape)) for shape in dict.fromkeys(shapes))}"]
