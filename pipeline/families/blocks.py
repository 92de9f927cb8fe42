"""The blocks that a denoiser is made of: nearly all of its weights and of its work, each like others."""

from collections.abc import Mapping
from typing import Any

from torch import nn

OF_UNETS = ("BasicTransformerBlock", "ResnetBlock2D")  # diffusers' own list names the first alone


def repeated_blocks(model: Any) -> Mapping[str, nn.Module]:
    """The blocks by name, in the order in which they stand; none lies within another.

    Of a UNet its transformer and residual blocks; of a transformer what its lists of layers hold.
    """
    named = dict(model.named_modules())
    if any(type(module).__name__ in OF_UNETS for module in named.values()):
        return {name: module for name, module in named.items() if type(module).__name__ in OF_UNETS}
    lists = {name: module for name, module in model.named_children() if isinstance(module, nn.ModuleList)}
    return {f"{name}.{number}": block for name, blocks in lists.items() for number, block in enumerate(blocks)}
