"""The names that the original (LDM, sgm) code gives to the layers of a UNet: 'input_blocks.4.1.proj_in'.

Files trained with kohya's SDXL script use them. The original code numbers its blocks in one row, input
and output each; diffusers groups them by resolution.
"""

import re
from collections.abc import Collection

_OUTSIDE_BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_IN_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def ldm_names(layers: Collection[str]) -> dict[str, str]:
    """The LDM name of every layer that has one, by its diffusers name; empty if the model is no UNet.

    `layers` are all the linear and convolutional layers of the model: the blocks are counted in them.
    """
    found = {layer: match for layer in layers if (match := _BLOCK.fullmatch(layer))}
    num_resnets: dict[tuple[str, int], int] = {}
    with_attention = set()
    for match in found.values():
        block, index = (match[1], int(match[2])), int(match[4])
        if match[3] == "resnets":
            num_resnets[block] = max(num_resnets.get(block, 0), index + 1)
        if match[3] == "attentions":
            with_attention.add(block)
    assert with_attention <= num_resnets.keys(), "blocks cannot be counted in a part of the layers"

    names = {layer: name for layer in layers if (name := _OUTSIDE_BLOCKS.get(layer) or _in_middle(layer))}
    for layer, match in found.items():
        block = match[1], int(match[2])
        number = _first(block, num_resnets) + int(match[4])
        name = _in_block(match, number, num_resnets[block], block in with_attention)
        if name:
            names[layer] = name
    return names


def _first(block: tuple[str, int], num_resnets: dict[tuple[str, int], int]) -> int:
    """The number of a block's first part: conv_in and the downsamplers count among the input blocks."""
    side, index = block
    before = sum(num_resnets[side, earlier] for earlier in range(index))
    return before + 1 + index if side == "down" else before


def _in_block(match: re.Match[str], number: int, num_resnets: int, with_attention: bool) -> str | None:
    side, _, part, _, rest = match.groups()
    row = "input_blocks" if side == "down" else "output_blocks"
    if part == "resnets":
        return f"{row}.{number}.0.{_IN_RESNET[rest]}" if rest in _IN_RESNET else None
    if part == "attentions":
        return f"{row}.{number}.1.{rest}"
    if part == "downsamplers":
        return f"{row}.{number + num_resnets}.0.op"
    return f"{row}.{number + num_resnets - 1}.{2 if with_attention else 1}.conv"


def _in_middle(layer: str) -> str | None:
    match = _MIDDLE.fullmatch(layer)
    if not match:
        return None
    part, index, rest = match.groups()
    if part == "attentions":
        return f"middle_block.1.{rest}"
    return f"middle_block.{2 * int(index)}.{_IN_RESNET[rest]}" if rest in _IN_RESNET else None
