"""Frozen linear layers kept in few bits: their weights are made anew wherever they are computed with or looked at.

So an adapter, its proof and its start see one base, the weights as they come out of the few bits. Nothing that is made
is kept: neither between the passes nor for the backward pass, which makes it once more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pipeline import put_off
from pipeline.adapter.options import Quantization
from pipeline.families.blocks import repeated_blocks

LARGEST_INT8, LARGEST_FP8 = 127, 448.0
NF4_BLOCK, NF4_VALUES = 64, 16  # weights that share a scale, and what four bits can be


@dataclass(frozen=True)
class Packing:
    """A way of keeping a weight [o i] as small tensors by name, and of making it again."""

    pack: Callable[[Tensor], dict[str, Tensor]]
    unpack: Callable[[dict[str, Tensor], torch.Size, torch.dtype], Tensor]


def _pack_int8(weight: Tensor) -> dict[str, Tensor]:
    """One scale for each row, symmetric: -127 to 127."""
    scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / LARGEST_INT8
    return {"packed": (weight / scale).round().to(torch.int8), "scale": scale}


def _pack_fp8(weight: Tensor) -> dict[str, Tensor]:
    """One scale for each row, so that its largest weight is the largest of e4m3."""
    scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / LARGEST_FP8
    return {"packed": (weight / scale).to(torch.float8_e4m3fn), "scale": scale}


def _scaled(parts: dict[str, Tensor], shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return (parts["packed"].to(torch.float32) * parts["scale"]).to(dtype)


def _pack_nf4(weight: Tensor) -> dict[str, Tensor]:
    """16 values at the quantiles of a normal distribution, a scale for each 64 weights (Dettmers et al. 2023)."""
    if weight.is_meta:  # where bitsandbytes has nothing to do: what it would make
        halves, blocks = -(-weight.numel() // 2), -(-weight.numel() // NF4_BLOCK)
        packed = weight.new_empty(halves, 1, dtype=torch.uint8)
        return {"packed": packed, "scale": weight.new_empty(blocks), "code": weight.new_empty(NF4_VALUES)}
    put_off.show("bitsandbytes")
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(weight.contiguous(), blocksize=NF4_BLOCK, quant_type="nf4")
    return {"packed": packed, "scale": state.absmax, "code": state.code}


def _unpack_nf4(parts: dict[str, Tensor], shape: torch.Size, dtype: torch.dtype) -> Tensor:
    if parts["packed"].is_meta:
        return parts["scale"].new_empty(shape, dtype=dtype)
    put_off.show("bitsandbytes")
    from bitsandbytes.functional import QuantState, dequantize_4bit

    state = QuantState(
        absmax=parts["scale"],
        shape=shape,
        code=parts["code"],
        blocksize=NF4_BLOCK,
        quant_type="nf4",
        dtype=dtype,
    )
    weight: Tensor = dequantize_4bit(parts["packed"], state)
    return weight


PACKINGS: dict[Quantization, Packing] = {
    "nf4": Packing(_pack_nf4, _unpack_nf4),
    "int8": Packing(_pack_int8, _scaled),
    "fp8": Packing(_pack_fp8, _scaled),
}


class QuantizedLinear(nn.Linear):
    """A frozen linear layer whose `weight` is made from few bits each time; PEFT takes it for any other."""

    scale: Tensor

    def __init__(self, layer: nn.Linear, kind: Quantization, device: torch.device) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make a weight
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self.kind, self.shape, self.dtype = kind, layer.weight.shape, layer.weight.dtype
        parts = PACKINGS[kind].pack(layer.weight.detach().to(device, torch.float32))
        self.names = tuple(parts)
        for name, value in parts.items():
            self.register_buffer(name, value)

    @property
    def parts(self) -> dict[str, Tensor]:
        """What is kept."""
        return {name: getattr(self, name) for name in self.names}

    @property
    def weight(self) -> Float[Tensor, "o i"]:  # type: ignore[override]  # which is a parameter elsewhere
        """The weight as it comes out of the few bits."""
        return self.made(self.parts, self.dtype)

    def made(self, parts: dict[str, Tensor], dtype: torch.dtype) -> Float[Tensor, "o i"]:
        """The weight from what is kept of it, in a type."""
        return PACKINGS[self.kind].unpack(parts, self.shape, dtype)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # diffusers' loaders look up the shapes of weights here; whole ones would take the memory that was saved.
        destination[f"{prefix}weight"] = self.scale.new_full((), torch.nan).expand(self.shape)

    def forward(self, x: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        """The product in the type of its input."""
        product: Tensor = _Product.apply(x, self, *self.parts.values())  # type: ignore[no-untyped-call]  # torch's own
        return product if self.bias is None else product + self.bias.to(product.dtype)


class _Product(torch.autograd.Function):
    """x W^T with W made for it, and made again for the gradient: torch would keep it from one to the other."""

    @staticmethod
    def forward(context: Any, x: Tensor, layer: QuantizedLinear, *parts: Tensor) -> Tensor:
        """[... i] to [... o]; only what is kept of the weight waits for the gradient."""
        context.save_for_backward(*parts)
        context.layer = layer
        return functional.linear(x, layer.made(dict(zip(layer.names, parts, strict=True)), x.dtype))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the input, [... i], from that of the product, [... o]."""
        layer, parts = context.layer, context.saved_tensors
        weight = layer.made(dict(zip(layer.names, parts, strict=True)), gradient.dtype)
        return gradient @ weight, None, *(None for _ in parts)


def quantize(model: nn.Module, kind: Quantization, device: torch.device) -> None:
    """Keep the linear layers of a model's blocks in few bits, packed on the device one by one.

    Layers outside the blocks, convolutions, norms and biases stay as they are: few weights, and those that others rest
    on.
    """
    for block in repeated_blocks(model).values():
        for name, layer in list(block.named_modules()):
            if type(layer) is nn.Linear:
                parent, _, own = name.rpartition(".")
                setattr(block.get_submodule(parent), own, QuantizedLinear(layer, kind, device))
