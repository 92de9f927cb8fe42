"""Counting what a computation takes while it runs, also on tensors without values: bytes, operations, kernels."""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
CPU_ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu
CPU_ATTENTION_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """The bytes of tensors that are alive, now and at most; floating-point operations; kernels.

    A tensor counts from the operation that makes it until nobody holds it: what autograd saves for the backward pass
    as much as what one operation hands to the next. What a kernel takes for itself alone is not seen.
    """

    def __init__(self, there: Iterable[Tensor] = ()) -> None:
        """`there`: tensors that are alive already."""
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.live_bytes = self.peak_bytes = 0
        self.num_flops = self.num_kernels = 0
        self._known: set[int] = set()
        for value in there:
            self._see(value)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._see(value)
        count = _flops_of(func)
        if count is not None:
            self.num_flops += count(*args, **(kwargs or {}), out_val=out)
        self.num_kernels += not func.is_view
        return out

    def _see(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live_bytes -= size


def _flops_of(func: Any) -> Callable[..., int] | None:
    """What counts the operations of a kernel: products, convolutions and attention; the rest is next to nothing."""
    packet = func._overloadpacket
    if packet is CPU_ATTENTION:
        return _attention_flops
    if packet is CPU_ATTENTION_BACKWARD:
        return _attention_backward_flops
    found: Callable[..., int] | None = flop_registry.get(packet)
    return found


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    found: int = sdpa_flop_count(query.shape, key.shape, value.shape)  # type: ignore[no-untyped-call]  # torch's own
    return found


def _attention_backward_flops(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    shapes = gradient.shape, query.shape, key.shape, value.shape
    found: int = sdpa_backward_flop_count(*shapes)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return found


@contextlib.contextmanager
def attention_of(device: str) -> Iterator[None]:
    """Attention on tensors without values as a device computes and saves it; by itself torch takes the plainest way.

    'meta' is that plainest way: products that recompute nothing. A CPU has one kernel, with a mask or without; CUDA
    flash attention for half precision without a mask, and else the memory-efficient one. Masks may be on the CPU, where
    the lengths they say can be read.
    """
    usual = F.scaled_dot_product_attention

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        *,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if query.device.type != "meta":
            return usual(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        if enable_gqa:
            repeats = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        mask = None if attn_mask is None else attn_mask.to(query.device)
        found: Tensor
        if device == "meta":
            found = usual(query, key, value, mask, dropout_p, is_causal, scale=scale)
        elif device == "cpu":
            found = CPU_ATTENTION(query, key, value, dropout_p, is_causal, attn_mask=mask, scale=scale)[0]
        elif mask is None and query.dtype != torch.float32:
            found = aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
        else:
            bias = None if mask is None else mask.to(query.dtype).expand(*query.shape[:3], key.shape[2])
            found = aten._scaled_dot_product_efficient_attention(
                query, key, value, bias, True, dropout_p, is_causal, scale=scale
            )[0]
        return found

    F.scaled_dot_product_attention = attention  # type: ignore[assignment]  # what is called by its place is so here
    try:
        yield
    finally:
        F.scaled_dot_product_attention = usual
