"""Frozen blocks that wait in the host's memory and come to the device while the block before them computes.

Nothing goes back, for nothing of them changes. The backward pass brings each block again when it recomputes it: so
activations must be recomputed, or autograd would keep every block on the device until its turn.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.adapter.names import is_adapter
from pipeline.families.blocks import repeated_blocks

AT_ONCE = 2  # blocks on the device: one that computes, and the next
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Slot:
    """Where a module keeps a frozen tensor, and the one on the host that belongs there."""

    place: dict[str, Any]  # the module's parameters, or its buffers
    name: str
    own: Tensor  # a parameter or a buffer
    value: Tensor  # the same memory, whatever becomes of `own.data`


class StreamedForward:
    """A block's forward, with its frozen tensors on the device for as long as it lasts."""

    def __init__(self, stream: "BlockStream", number: int, block: nn.Module) -> None:
        self._stream, self._number, self._whole = stream, number, block.forward

    def __call__(self, *args: Any, **values: Any) -> Any:
        """What the block makes of its input."""
        given = next(value for value in (*args, *values.values()) if isinstance(value, Tensor))
        with self._stream.brought(self._number, given.dtype):
            return self._whole(*args, **values)


class BlockStream:
    """The frozen tensors of a model's blocks, on the host; what is no block's, and the adapter, is on the device."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._device = device
        self._side: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._blocks: list[list[Slot]] = []
        self._ahead: tuple[int, torch.dtype, list[Tensor]] | None = None
        self._last: tuple[int, int] = (-1, -1)  # the blocks that came last
        self._next: dict[tuple[int, int], int] = {}  # which came after each two: forward, backward, and what turns
        streamed = set[int]()
        for number, block in enumerate(repeated_blocks(model).values()):
            slots = [self._on_host(place, name, own) for place, name, own in frozen_of(block)]
            streamed |= {id(slot.own) for slot in slots}
            self._blocks.append(slots)
            block.forward = StreamedForward(self, number, block)
        for module in model.modules():
            places: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for place in places:
                for name, value in place.items():
                    if value is not None and id(value) not in streamed:
                        place[name] = _moved(value, device)

    def _on_host(self, place: dict[str, Any], name: str, own: Tensor) -> Slot:
        value = own.data.to("cpu")
        own.data = value.pin_memory() if self._side is not None else value
        return Slot(place, name, own, own.data)

    @contextlib.contextmanager
    def brought(self, number: int, dtype: torch.dtype) -> Iterator[None]:
        """A block on the device for a while, half precision in float32 where its input is; the next is on its way."""
        slots, there = self._blocks[number], self._taken(number, dtype)
        before, self._last = self._last, (self._last[1], number)
        self._next[before] = number
        following = self._next.get(self._last)
        if following is not None:
            self._ahead = following, dtype, self._copied(following, dtype)
        for slot, value in zip(slots, there, strict=True):
            slot.place[slot.name] = value
        try:
            yield
        finally:
            for slot in slots:
                slot.place[slot.name] = slot.own

    def _taken(self, number: int, dtype: torch.dtype) -> list[Tensor]:
        """The tensors of a block, from what was brought ahead if that is it."""
        ahead, self._ahead = self._ahead, None
        found = ahead[2] if ahead is not None and ahead[:2] == (number, dtype) else self._copied(number, dtype)
        if self._side is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._side)
            for value in found:
                value.record_stream(current)  # its memory is taken for others when this stream is done with it
        return found

    def _copied(self, number: int, dtype: torch.dtype) -> list[Tensor]:
        """Copies of a block's tensors on the device, on their way."""
        with torch.cuda.stream(self._side):
            there = [slot.value.to(self._device, non_blocking=True, copy=True) for slot in self._blocks[number]]
            is_whole = dtype == torch.float32
            return [value.float() if is_whole and value.dtype in HALF else value for value in there]


def _moved(value: Tensor, device: torch.device) -> Tensor:
    there = value.detach().to(device)
    return nn.Parameter(there, value.requires_grad) if isinstance(value, nn.Parameter) else there


def is_streamed(model: nn.Module) -> bool:
    """Whether a model's blocks come from the host."""
    return any(isinstance(block.forward, StreamedForward) for block in repeated_blocks(model).values())


def frozen_of(block: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """Every frozen tensor of a block: where its module keeps it, under which name, and it."""
    for path, module in block.named_modules():
        for place in (module._parameters, module._buffers):
            for name, value in place.items():
                if value is not None and not is_adapter(f"{path}.{name}"):
                    yield place, name, value


def bytes_there(model: nn.Module) -> int:
    """What of a model's frozen tensors is on the device at most while its blocks are streamed: two of them."""
    blocks = [sum(own.nbytes for _, _, own in frozen_of(block)) for block in repeated_blocks(model).values()]
    whole = sum(own.nbytes for _, _, own in frozen_of(model))
    return whole - sum(blocks) + sum(sorted(blocks)[-AT_ONCE:])
