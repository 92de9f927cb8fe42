"""The names that the original code gives to the layers of transformers: 'double_blocks.4.img_attn.qkv'.

One of its layers may be several of diffusers', one below the other in its output: q, k and v, and the first layer of
FLUX's MLP beside them. Of an adapter, B is cut into rows, and each part keeps all of A, or of it only the ranks that
it uses. The other way round, B is put together block by block, and the ranks add up.

Of the last norms, the original code has shift before scale, diffusers scale before shift.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.errors import CheckpointError

Pair = tuple[Tensor, Tensor]  # A [rank inputs ...] and B [outputs rank ...]
Table = Mapping[str, tuple[str, ...]]  # {} is the number of a block

_EMBEDDERS = {"t_embedder": "timestep", "y_embedder": "text"}
_LAST = {"final_layer.linear": ("proj_out",), "final_layer.adaLN_modulation.1": ("norm_out.linear",)}


def _qkv(layer: str, names: Iterable[str] = ("to_q", "to_k", "to_v")) -> tuple[str, ...]:
    return tuple(f"{layer}.{name}" for name in names)


def _streams(sides: Mapping[str, str], names: Mapping[str, str]) -> Table:
    """The two streams of a double block: `sides` say what stands for the image and the text in the original `names`."""
    block, table = "transformer_blocks.{}", dict[str, tuple[str, ...]]()
    for side, qkv, out, mlp, norm in (
        ("image", ("to_q", "to_k", "to_v"), "to_out.0", "ff", "norm1"),
        ("text", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "ff_context", "norm1_context"),
    ):
        ours = {
            "qkv": _qkv(f"{block}.attn", qkv),
            "out": (f"{block}.attn.{out}",),
            "up": (f"{block}.{mlp}.net.0.proj",),
            "down": (f"{block}.{mlp}.net.2",),
            "modulation": (f"{block}.{norm}.linear",),
        }
        table |= {names[part].replace("SIDE", sides[side]): layers for part, layers in ours.items()}
    return table


def _flux() -> Table:
    single = "single_transformer_blocks.{}"
    table: dict[str, tuple[str, ...]] = {"img_in": ("x_embedder",), "txt_in": ("context_embedder",), **_LAST}
    for theirs, ours in (("time", "timestep"), ("vector", "text"), ("guidance", "guidance")):
        table[f"{theirs}_in.in_layer"] = (f"time_text_embed.{ours}_embedder.linear_1",)
        table[f"{theirs}_in.out_layer"] = (f"time_text_embed.{ours}_embedder.linear_2",)
    parts = {"qkv": "attn.qkv", "out": "attn.proj", "up": "mlp.0", "down": "mlp.2", "modulation": "mod.lin"}
    names = {part: f"double_blocks.{{}}.SIDE_{name}" for part, name in parts.items()}
    table |= _streams({"image": "img", "text": "txt"}, names)
    table["single_blocks.{}.linear1"] = (*_qkv(f"{single}.attn"), f"{single}.proj_mlp")
    table["single_blocks.{}.linear2"] = (f"{single}.proj_out",)
    table["single_blocks.{}.modulation.lin"] = (f"{single}.norm.linear",)
    return table


def _sd3() -> Table:
    table: dict[str, tuple[str, ...]] = {
        "x_embedder.proj": ("pos_embed.proj",),
        "context_embedder": ("context_embedder",),
        **_LAST,
    }
    for theirs, ours in _EMBEDDERS.items():
        for place, number in ((0, 1), (2, 2)):
            table[f"{theirs}.mlp.{place}"] = (f"time_text_embed.{ours}_embedder.linear_{number}",)
    parts = {"qkv": "attn.qkv", "out": "attn.proj", "up": "mlp.fc1", "down": "mlp.fc2"}
    parts["modulation"] = "adaLN_modulation.1"
    names = {part: f"joint_blocks.{{}}.SIDE_block.{name}" for part, name in parts.items()}
    table |= _streams({"image": "x", "text": "context"}, names)
    table["joint_blocks.{}.x_block.attn2.qkv"] = _qkv("transformer_blocks.{}.attn2")
    table["joint_blocks.{}.x_block.attn2.proj"] = ("transformer_blocks.{}.attn2.to_out.0",)
    return table


def _lumina2() -> Table:
    embed = "time_caption_embed"
    table: dict[str, tuple[str, ...]] = {
        "x_embedder": ("x_embedder",),
        "cap_embedder.1": (f"{embed}.caption_embedder.1",),
        "t_embedder.mlp.0": (f"{embed}.timestep_embedder.linear_1",),
        "t_embedder.mlp.2": (f"{embed}.timestep_embedder.linear_2",),
        "final_layer.adaLN_modulation.1": ("norm_out.linear_1",),
        "final_layer.linear": ("norm_out.linear_2",),
    }
    for row in ("layers", "noise_refiner", "context_refiner"):
        table[f"{row}.{{}}.attention.qkv"] = _qkv(f"{row}.{{}}.attn")
        table[f"{row}.{{}}.attention.out"] = (f"{row}.{{}}.attn.to_out.0",)
        table |= {f"{row}.{{}}.feed_forward.w{n}": (f"{row}.{{}}.feed_forward.linear_{n}",) for n in (1, 2, 3)}
        table[f"{row}.{{}}.adaLN_modulation.1"] = (f"{row}.{{}}.norm1.linear",)
    return table


TABLES: Mapping[str, Table] = {"flux": _flux(), "sd3": _sd3(), "lumina2": _lumina2()}
_TELLING = {  # the names that only one of them has
    "flux": re.compile(r"(?:double|single)_blocks[._]\d"),
    "sd3": re.compile(r"joint_blocks[._]\d"),
    "lumina2": re.compile(r"(?:layers|noise_refiner|context_refiner)[._]\d+[._](?:attention|feed_forward[._]w\d)"),
}


def family_of(stems: Iterable[str]) -> str | None:
    """The family whose original names these are, dotted or with underscores."""
    stems = list(stems)
    return next((name for name, form in _TELLING.items() if any(map(form.search, stems))), None)


def layers_of(name: str, family: str) -> tuple[str, ...] | None:
    """The diffusers layers that one original layer is, dotted or with underscores; None if it is none."""
    for pattern, layers in _patterns(family):
        if match := pattern.fullmatch(name):
            return tuple(layer.format(*match.groups()) for layer in layers)
    return None


def original_of(layers: Iterable[str], family: str) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The original layers that hold these diffusers layers, each with all of its parts, and those that none holds."""
    found: dict[str, tuple[str, ...]] = {}
    unknown = []
    for layer in layers:
        places = ((form.fullmatch(layer), name, parts) for form, name, parts in _reverse(family))
        match, name, parts = next((place for place in places if place[0]), (None, "", ()))
        if match is None:
            unknown.append(layer)
        else:
            found[name.format(*match.groups())] = tuple(part.format(*match.groups()) for part in parts)
    return found, unknown


@cache
def _patterns(family: str) -> list[tuple[re.Pattern[str], tuple[str, ...]]]:
    return [(_pattern(name, r"[._]"), layers) for name, layers in TABLES[family].items()]


@cache
def _reverse(family: str) -> list[tuple[re.Pattern[str], str, tuple[str, ...]]]:
    return [(_pattern(layer, r"\."), name, layers) for name, layers in TABLES[family].items() for layer in layers]


def _pattern(name: str, dot: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\.", dot).replace(r"\{\}", r"(\d+)"))


def split(a: Tensor, b: Tensor, layers: tuple[str, ...]) -> dict[str, Pair]:
    """One original layer's A [r i] and B [o r] as those of its parts, by their diffusers names."""
    if len(layers) == 1:
        return {layers[0]: (a, _turned(b) if _is_turned(layers[0], a, b) else b)}
    rows = torch.split(b, _rows(len(layers), len(b), a.shape[1]))
    return {layer: used(a, part) for layer, part in zip(layers, rows, strict=True)}


def _rows(num_parts: int, outputs: int, inputs: int) -> list[int]:
    """The outputs of each part: q has as many as inputs, k and v share the rest evenly, or FLUX's MLP has it."""
    rest = outputs - inputs
    return [inputs, inputs, inputs, rest - 2 * inputs] if num_parts == 4 else [inputs, rest // 2, rest - rest // 2]


def used(a: Float[Tensor, "r i"], b: Float[Tensor, "o r"]) -> Pair:
    """A and B with only the ranks that B uses; a part that is all zero stays as it is."""
    used = (b != 0).any(dim=0)
    return (a[used].contiguous(), b[:, used].contiguous()) if used.any() else (a, b.contiguous())


def joined(parts: Mapping[str, Pair], layers: tuple[str, ...], sizes: Mapping[str, int]) -> Pair:
    """A [r i] and B [o r] of one original layer from those of its parts; parts that are not adapted get rows of zeros.

    Parts that share A keep it, so that what was split is put together again as it was. `sizes` are the outputs of the
    base's layers, as far as they are known. Raises CheckpointError where the size of a missing part is not.
    """
    own = [parts[layer] for layer in layers if layer in parts]
    if len(layers) == 1:
        a, b = own[0]
        return a, _turned(b) if _is_turned(layers[0], a, b) else b
    if len(own) == len(layers) and all(torch.equal(a, own[0][0]) for a, _ in own):
        return own[0][0], torch.cat([b for _, b in own])
    outputs = _outputs(parts, layers, own[0][0].shape[1], sizes)
    a, b = torch.cat([a for a, _ in own]), own[0][1].new_zeros(sum(outputs), sum(len(a) for a, _ in own))
    row = column = 0
    for layer, size in zip(layers, outputs, strict=True):
        if layer in parts:
            part = parts[layer][1]
            b[row : row + size, column : column + part.shape[1]] = part
            column += part.shape[1]
        row += size
    return a, b


def _outputs(parts: Mapping[str, Pair], layers: tuple[str, ...], inputs: int, sizes: Mapping[str, int]) -> list[int]:
    """The outputs of each part: of k and v as many, and as many as of q but for Lumina 2, of FLUX's MLP four times."""
    known = {layer: sizes[layer] for layer in layers if layer in sizes}
    known |= {layer: len(parts[layer][1]) for layer in layers if layer in parts}
    k_or_v = next((known[layer] for layer in layers[1:3] if layer in known), None)
    if k_or_v is None and _reverse_of_lumina(layers[0]):
        raise CheckpointError(f"{layers[1]} is not in the adapter, so its size is not known; give --base.")
    usual = [inputs, k_or_v or inputs, k_or_v or inputs, 4 * inputs]
    return [known.get(layer, usual[place]) for place, layer in enumerate(layers)]


def _reverse_of_lumina(layer: str) -> bool:
    return any(form.fullmatch(layer) for form, _, _ in _reverse("lumina2"))


def _is_turned(layer: str, a: Tensor, b: Tensor) -> bool:
    """Whether scale and shift are the other way round: the last norm's, and that of SD3's last block on the text."""
    return layer == "norm_out.linear" or (layer.endswith("norm1_context.linear") and len(b) == 2 * a.shape[1])


def _turned(b: Float[Tensor, "o r"]) -> Float[Tensor, "o r"]:
    return torch.cat(b.chunk(2)[::-1]).contiguous()
