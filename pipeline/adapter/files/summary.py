"""What an adapter file is, in numbers and words: layers, ranks, scale, size block by block, and what is wrong."""

import json
import math
import re
import textwrap
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from pipeline.adapter.files.arithmetic import norm
from pipeline.adapter.files.checks import alpha_problems, tensor_problems
from pipeline.adapter.files.reader import AdapterFile
from pipeline.adapter.names import COMPONENTS, is_magnitude, layer_of, pairs
from pipeline.console import columns
from pipeline.families import registry

NOTE = "t2i_lora"  # our own entry in the header, a JSON object
UNKNOWN = "unknown"
FACTS = {  # by name, where in the header it may stand; the first that is there counts
    "title": ("modelspec.title", "ss_output_name"),
    "trigger": ("t2i_lora.trigger", "t2i_lora.trigger_word", "modelspec.trigger_phrase"),
    "licence": ("t2i_lora.licence", "t2i_lora.license", "modelspec.license"),
    "base_model": (
        *("t2i_lora.base_model", "adapter_config.json.base_model_name_or_path"),
        *("modelspec.architecture", "ss_base_model_version"),
    ),
    "family": ("t2i_lora.family",),
    "step": ("t2i_lora.step", "ss_steps"),
    "resolution": ("modelspec.resolution", "ss_resolution"),
    "t2i_lora_version": ("t2i_lora.version",),
}
# Absolute paths of the kinds people have; modelspec's embedded pictures are full of slashes, so roots are spelled out.
PRIVATE = re.compile(
    r"(?:file:|(?<![\w.~/-])/(?:home|Users|root|mnt|media|tmp|data|workspace|content|kaggle|var|opt|srv|Volumes)/"
    r"|(?<![\w/])~/|(?<!\w)[A-Za-z]:[\\/](?!/)|\\\\\w)[^\s\"',;]*"
)


def summary(file: AdapterFile) -> dict[str, Any]:
    """Everything that is known of an adapter without its base, ready for JSON; sizes are Frobenius norms of B A."""
    parts: dict[str, dict[str, tuple[Tensor, Tensor]]] = defaultdict(dict)
    for name, pair in pairs(file.tensors).items():
        parts[name.partition(".")[0]][name] = pair
    return {
        "path": str(file.path),
        "format": file.format,
        "family": file.family or family_of(file.tensors),
        "dora": any(is_magnitude(name) for name in file.tensors),
        "num_parameters": sum(value.numel() for value in file.tensors.values()),
        "dtypes": sorted({str(value.dtype).removeprefix("torch.") for value in file.tensors.values()}),
        "components": {name: _component(file, parts[name]) for name in COMPONENTS if name in parts},
        "blocks": _sizes(file),
        "facts": facts_of(file.header),
        "notes": list(file.notes),
        "problems": tensor_problems(file.tensors) + alpha_problems(file.tensors, file.alphas) + _private(file.header),
    }


def text(facts: dict[str, Any]) -> str:
    """A summary for a terminal."""
    rows = [("format", facts["format"]), ("family", f"{facts['family']} (by its layers)")]
    for name, part in facts["components"].items():
        kinds = ", ".join(f"{part[kind]} {kind}" for kind in ("linear", "convolutional") if part[kind])
        strength = f"alpha {_range(part['alphas'])}, so scaled by {_range(part['scales'])}"
        rows.append((name, f"{part['layers']} layers ({kinds}), rank {_range(part['ranks'])}, {strength}"))
        rows += [("", line) for line in textwrap.wrap(" ".join(part["targets"]), 100)]
    rows.append(("weights", f"{facts['num_parameters']:,} in {', '.join(facts['dtypes'])}"))
    if facts["dora"]:
        rows.append(("DoRA", "magnitudes are learnt apart, so B A is not all that changes"))
    rows += [(name.replace("_", " "), value) for name, value in facts["facts"].items()]
    lines = [f"Adapter  {facts['path']}", *columns(rows), "Size of B A"]
    sizes = [(name, "not finite" if size is None else f"{size:.4g}") for name, size in facts["blocks"].items()]
    lines += columns(sizes)
    lines += ["Notes", *(f"  - {note}" for note in facts["notes"])] if facts["notes"] else []
    lines += (
        ["Problems", *(f"  - {problem}" for problem in facts["problems"])] if facts["problems"] else ["No problems"]
    )
    return "\n".join(_printable(line) for line in lines)


def family_of(tensors: dict[str, Tensor]) -> str:
    """The family that layers' names and sizes point to, or 'unknown'."""
    sizes = {name: (a.shape[1], len(b)) for name, (a, b) in pairs(tensors).items()}
    return registry.of_layers(sizes) or UNKNOWN


def block_of(name: str) -> str:
    """The block of a layer: 'unet.down_blocks.0', 'unet.mid_block', 'transformer.transformer_blocks.3'."""
    component, _, layer = name.partition(".")
    match = re.match(r"(?!mid_block)(.*?\.\d+)\.", layer)
    return f"{component}.{match[1] if match else layer.partition('.')[0]}"


def target_of(name: str) -> str:
    """What a layer is called within its block, as 'attn1.to_out.0': what --lora_layers is given."""
    return re.sub(r"^.*s\.\d+\.", "", name.partition(".")[2])


def sizes_of(tensors: dict[str, Tensor]) -> dict[str, float | None]:
    """The norm of every layer's B A by '<component>.<layer>'; None where a number is not finite."""
    return {
        name: norm(a, b) if torch.isfinite(a).all() and torch.isfinite(b).all() else None
        for name, (a, b) in pairs(tensors).items()
    }


def facts_of(header: dict[str, str]) -> dict[str, str]:
    """What the header says of the adapter, as far as we know its words."""
    facts = dict(header)
    for name, value in header.items():
        if name.rsplit("/", 1)[-1] in (NOTE, "adapter_config.json"):
            facts |= {f"{name.rsplit('/', 1)[-1]}.{field}": inner for field, inner in _fields(value).items()}
    found = {fact: [facts[place] for place in places if place in facts] for fact, places in FACTS.items()}
    return {fact: values[0] for fact, values in found.items() if values}


def with_rank(header: dict[str, str], rank: int) -> dict[str, str]:
    """The header with this rank in our own entry, where that says one."""
    note = _fields(header.get(NOTE, ""))
    return {**header, NOTE: json.dumps({**json.loads(header[NOTE]), "rank": rank})} if "rank" in note else header


def _fields(value: str) -> dict[str, str]:
    """The texts and numbers of a JSON object; nothing for anything else."""
    try:
        found = json.loads(value)
    except ValueError:
        found = None
    fields = found.items() if isinstance(found, dict) else ()
    return {name: str(inner) for name, inner in fields if isinstance(inner, str | int | float)}


def _component(file: AdapterFile, layers: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
    ranks = {name: len(a) for name, (a, _) in layers.items()}
    own = {name: value for name, value in file.tensors.items() if layer_of(name) in layers}
    return {
        "layers": len(layers),
        "linear": sum(a.ndim == 2 for a, _ in layers.values()),
        "convolutional": sum(a.ndim == 4 for a, _ in layers.values()),
        "targets": sorted({target_of(name) for name in layers}),
        "ranks": sorted(set(ranks.values())),
        "alphas": sorted({round(file.alphas[name], 6) for name in layers}),
        "scales": sorted({round(file.alphas[name] / ranks[name], 6) for name in layers}),
        "dora": any(is_magnitude(name) for name in own),
        "num_parameters": sum(value.numel() for value in own.values()),
    }


def _sizes(file: AdapterFile) -> dict[str, float | None]:
    """The norm of all of a block's B A, by block."""
    blocks: dict[str, list[float | None]] = defaultdict(list)
    for name, size in sizes_of(file.tensors).items():
        blocks[block_of(name)].append(size)
    return {
        block: None if None in sizes else math.hypot(*(size for size in sizes if size is not None))
        for block, sizes in sorted(blocks.items(), key=lambda item: _natural(item[0]))
    }


def _private(header: dict[str, str]) -> list[str]:
    """Entries of the header that name a place on somebody's machine."""
    found = {name: PRIVATE.search(value) for name, value in header.items() if not value.startswith("data:")}
    return [f"the header's {name} names a private place: {match[0][:80]!r}" for name, match in found.items() if match]


def _natural(name: str) -> list[Any]:
    """A key that sorts block 2 before block 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _range(values: list[Any]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def _printable(line: str) -> str:
    """A header may hold anything, also what a terminal would obey."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in line)
    return shown if len(shown) <= 300 else f"{shown[:300]}..."
