"""Blocks of a denoiser as kernels made for them, where gradients are computed; everything else stays eager."""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.families.blocks import repeated_blocks

MAX_VARIANTS = 256  # of one class of blocks: widths, sizes of pictures, and layers with an adapter or without
CACHE = "TORCHINDUCTOR_CACHE_DIR"


class CompiledForward:
    """A block's forward: compiled in training, as it was in everything else, whose shapes are many and runs few."""

    def __init__(self, block: nn.Module) -> None:
        self.block, self.eager = block, block.forward
        self.compiled: Callable[..., Any] = torch.compile(block.forward)

    def __call__(self, *args: Any, **values: Any) -> Any:
        """What the block makes of its input."""
        trains = self.block.training and torch.is_grad_enabled()
        return (self.compiled if trains else self.eager)(*args, **values)


def compile_blocks(model: nn.Module, cache: Path, *, deterministic: bool) -> Callable[[], None]:
    """Compile the repeated blocks of an adapted model when each is first trained with; kernels are kept in `cache`.

    Deterministic: no kernel is chosen by the clock. Returns what puts the compiler's settings back.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    for block in repeated_blocks(model).values():
        block.forward = CompiledForward(block)
    settings = contextlib.ExitStack()
    settings.enter_context(
        torch._dynamo.config.patch(recompile_limit=MAX_VARIANTS, accumulated_recompile_limit=16 * MAX_VARIANTS)
    )
    settings.enter_context(torch._inductor.config.patch(deterministic=deterministic))
    before = os.environ.get(CACHE)
    if before in (None, default_cache_dir()):  # torch writes its own default there; another place was asked for
        os.environ[CACHE] = str(cache)
        settings.callback(os.environ.__setitem__, CACHE, before or default_cache_dir())
    return settings.close


def compiler_missing(device: torch.device) -> str | None:
    """What a compiler for this device needs and is not here."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return None if has_triton() else "triton"
    names = (os.environ.get("CXX"), "g++", "clang++")
    return None if any(name and shutil.which(name) for name in names) else "a C++ compiler (g++)"
