"""Attention of very narrow heads on a CPU, in steps that learn: the same numbers from a quicker kernel."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NARROW = 12  # channels of a head; products so thin take torch's kernel twice as long as ones of PADDED
PADDED = 16
LONG = 256  # keys; below, there is nothing to gain
Attention = Callable[..., Tensor]


@contextlib.contextmanager
def padded(device: torch.device) -> Iterator[None]:
    """Within it, heads of under 12 channels meet 256 keys or more as heads of 16, the added channels zero.

    Zeros add nothing to a product, so results and gradients differ by rounding alone (1e-7). Only on a CPU.
    """
    if device.type != "cpu":
        yield
        return
    usual = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _padding(usual)  # models call it by its place
    try:
        yield
    finally:
        F.scaled_dot_product_attention = usual


@functools.lru_cache(maxsize=2)
def _padding(usual: Attention) -> Any:
    """One function for one kernel: a compiled block would be compiled anew for another."""

    def attention(
        query: Tensor, key: Tensor, value: Tensor, *rest: Any, scale: float | None = None, **named: Any
    ) -> Tensor:
        width = query.shape[-1]
        if width >= NARROW or value.shape[-1] != width or key.shape[-2] < LONG:
            return usual(query, key, value, *rest, scale=scale, **named)
        scale = width**-0.5 if scale is None else scale
        wide = (F.pad(tensor, (0, PADDED - width)) for tensor in (query, key, value))
        return usual(*wide, *rest, scale=scale, **named)[..., :width]

    return attention
