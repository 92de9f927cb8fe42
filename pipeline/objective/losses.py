"""The distance between prediction and target."""

from jaxtyping import Float
from torch import Tensor


def squared_error(
    prediction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    counts: Float[Tensor, "b 1 h w"] | None = None,
) -> Float[Tensor, " b"]:
    """Mean squared error of each example, in float32; with `counts` the mean by these weights, 0 where all are 0."""
    error = (prediction.float() - target.float()).square()
    if counts is None:
        return error.mean(dim=(1, 2, 3))
    total: Float[Tensor, " b"] = counts.sum(dim=(1, 2, 3))
    return (error.mean(dim=1, keepdim=True) * counts).sum(dim=(1, 2, 3)) / total.clamp_min(1e-6)


def counted(mask: Float[Tensor, "b 1 h w"], unmasked_weight: float) -> Float[Tensor, "b 1 h w"]:
    """What each place counts: 1 where the mask is white, `unmasked_weight` where it is black."""
    return unmasked_weight + (1 - unmasked_weight) * mask
