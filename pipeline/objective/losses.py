"""The distance between prediction and target."""

from jaxtyping import Float
from torch import Tensor


def squared_error(prediction: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Mean squared error of each example, in float32."""
    return (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))
