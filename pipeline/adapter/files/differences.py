"""DoRA as plain additions to the base's weights, for programs that compute it otherwise or drop its magnitudes.

With W the base weight, D = B A and m the magnitude, DoRA (Liu et al. 2024, equation 5) makes m (W + D) / |W + D|, the
norm taken over all that goes into an output. What that adds to W is no product of small matrices: it is written whole,
or cut to a rank by its singular values.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.adapter.names import MAGNITUDE, A, B, pairs
from pipeline.errors import CheckpointError


def differences(tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What an adapter in diffusers' format adds to each weight [outputs, inputs, ...], by '<component>.<layer>'.

    `weights` are the base's, by the same names. Raises CheckpointError for layers that it lacks.
    """
    found = pairs(tensors)
    if missing := sorted(found.keys() - weights.keys()):
        raise CheckpointError(f"The base has no layer {missing[0]}, and {len(missing) - 1} more of the adapter.")
    result = {}
    for name, (a, b) in found.items():
        weight, magnitude = weights[name].float(), tensors.get(f"{name}{MAGNITUDE}")
        addition = (b.float().flatten(1) @ a.float().flatten(1)).reshape(weight.shape)
        result[name] = addition if magnitude is None else _dora(weight, addition, magnitude.float().flatten())
    return result


def _dora(
    weight: Float[Tensor, "o *rest"], addition: Float[Tensor, "o *rest"], magnitude: Float[Tensor, " o"]
) -> Float[Tensor, "o *rest"]:
    whole = weight + addition
    factor = magnitude / whole.flatten(1).norm(dim=1)
    difference: Tensor = whole * factor.reshape(-1, *[1] * (weight.ndim - 1)) - weight
    return difference


def of_rank(whole: Mapping[str, Tensor], rank: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The adapter of a rank nearest to whole differences [outputs, inputs, ...], and what is lost of each layer.

    The loss is the norm of what is missing over the norm of the difference.
    """
    tensors, lost = {}, {}
    for name, value in whole.items():
        u, sigma, v = torch.linalg.svd(value.double().flatten(1), full_matrices=False)
        root = sigma[:rank].sqrt()
        size = len(root)
        b = (u[:, :rank] * root).to(value.dtype)
        tensors[f"{name}{A}"] = (root[:, None] * v[:rank]).to(value.dtype).reshape(size, *value.shape[1:])
        tensors[f"{name}{B}"] = b.reshape(len(b), size, *[1] * (value.ndim - 2))
        lost[name] = float(sigma[rank:].norm() / sigma.norm()) if sigma.any() else 0.0
    return tensors, lost
