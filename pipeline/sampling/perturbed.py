"""A denoiser some of whose self-attention sees nothing but the place it is at: the weaker model of Ahn et al. 2024."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


class OnItself:
    """Attention whose map is the identity: every place gets its own value (eq. 13)."""

    def __call__(
        self, attn: Any, hidden_states: Float[Tensor, "b l d"], *_args: Any, **_kwargs: Any
    ) -> Float[Tensor, "b l d"]:
        """The values, projected as the attention's output is. diffusers' own does it for half of a batch."""
        out: Tensor = attn.to_v(hidden_states)
        for layer in attn.to_out:
            out = layer(out)
        return out


@contextlib.contextmanager
def perturbed(denoiser: nn.Module, pattern: str) -> Iterator[None]:
    """The self-attention layers of matching names perturbed for a while."""
    layers: list[Any] = [module for name, module in denoiser.named_modules() if re.fullmatch(pattern, name)]
    assert layers, "a denoiser without such layers is refused"
    own = [layer.processor for layer in layers]
    try:
        for layer in layers:
            layer.processor = OnItself()
        yield
    finally:
        for layer, processor in zip(layers, own, strict=True):
            layer.processor = processor
