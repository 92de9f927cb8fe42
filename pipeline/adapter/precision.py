"""Half precision weights that answer in float32: in half, a small effect drowns in rounding."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.adapter.names import is_adapter
from pipeline.adapter.quantized import QuantizedLinear

HALF = (torch.bfloat16, torch.float16)
BASE = ".base_layer"  # what PEFT names a frozen layer within its adapted one


@contextlib.contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """The frozen weights of a model in float32 for a while.

    Whoever looks at one sees a float32 tensor of its shape on its device, as an adapter that is loaded meanwhile
    does; but it takes memory, and has values, only while its layer computes (NaN otherwise). So a model needs
    the memory of its own precision and of one layer more. A weight that is used outside its own layer would be NaN.
    """
    there = next((value.device for name, value in model.named_parameters() if is_adapter(name)), None)
    own = _weights_to_lift(model, there)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_without_tf32())
        for packed in (module for module in model.modules() if isinstance(module, QuantizedLinear)):
            stack.callback(setattr, packed, "dtype", packed.dtype)
            packed.dtype = torch.float32
        for layer, weights in own.items():

            def up(*_: Any, weights: list[tuple[nn.Parameter, Tensor]] = weights) -> None:
                for value, data in weights:
                    if there in (None, data.device):  # others are brought by their block, in float32
                        value.data = data.float()

            def down(*_: Any, weights: list[tuple[nn.Parameter, Tensor]] = weights) -> None:
                for value, data in weights:
                    value.data = torch.full((), torch.nan, device=there or data.device).expand(data.shape)

            stack.callback(_put_back, weights)
            stack.callback(layer.register_forward_pre_hook(up).remove)
            stack.callback(layer.register_forward_hook(down, always_call=True).remove)
            down()
        yield


def _weights_to_lift(
    model: nn.Module, there: torch.device | None
) -> dict[nn.Module, list[tuple[nn.Parameter, Tensor]]]:
    """The frozen weights in half precision, or elsewhere than the adapter (adapter/streamed.py), with their values, by
    the layer that computes with them.

    An adapted layer computes with its frozen layer's: DoRA looks at them after that one has computed.
    """
    modules, own = dict(model.named_modules()), dict[nn.Module, list[tuple[nn.Parameter, Tensor]]]()
    for name, module in modules.items():
        weights = [
            (value, value.data)
            for value in module.parameters(recurse=False)
            if value.dtype in HALF or there not in (None, value.device)
        ]
        if weights and not is_adapter(name):
            own.setdefault(modules[name.removesuffix(BASE)], []).extend(weights)
    return own


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """Float32 that is float32 on NVIDIA cards too: TF32 has the 10 bits of float16."""
    units: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [unit.allow_tf32 for unit in units]
    for unit in units:
        unit.allow_tf32 = False
    try:
        yield
    finally:
        for unit, allowed in zip(units, before, strict=True):
            unit.allow_tf32 = allowed


def _put_back(weights: list[tuple[nn.Parameter, Tensor]]) -> None:
    for value, data in weights:
        value.data = data
