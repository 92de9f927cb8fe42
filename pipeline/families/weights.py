"""Whether the files of a model in diffusers' layout hold the weights that its configuration has places for.

Told from their headers, before anything is claimed or read: what lacks a weight is loaded all the same, by diffusers
with nothing in its place and by transformers with random numbers.
"""

import collections
import math
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from safetensors import SafetensorError, safe_open

from pipeline.families.checkpoint.source import ModelSource
from pipeline.families.meta import part_on_meta
from pipeline.remembered import remembered, settled, signature_of

VARIANT = re.compile(r"\.([a-z0-9_]+)(?:-\d+-of-\d+)?\.safetensors$")  # as in model.fp16-00001-of-00002.safetensors
SHARD = re.compile(r"-(\d+)-of-(\d+)\.safetensors$")
WRAPPERS = re.compile(r"^(?:text_model|model)\.")  # that one version of a model puts around another's names
FLOATS = re.compile(r"B?F\d")  # types of numbers; others are those of quantized weights
MAX_NAMED = 3
VERSION = 1  # raise it when more is found to be wrong


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, as its header says."""

    shape: tuple[int, ...]
    dtype: str  # in safetensors' words


def problems_of(source: ModelSource, parts: tuple[str, ...], cache: Path | None = None) -> list[str]:
    """What is wrong with the weights of each part, one sentence each.

    With a cache, parts in which nothing was wrong are not built again while their files stay as they are.
    """
    if cache is None:
        return [problem for part in parts for problem in _of_part(source, part)]
    problems = []
    with remembered(cache, str(source.folder), f"weights {VERSION} {_libraries()}", whole=False) as known:
        for part in parts:
            name = f"{source.index.get(part)} {source.variant} {folder_of(source, part)}"
            before = _signature(source, part)
            if known.recall(name, before):
                continue
            found = _of_part(source, part)
            if not found and _signature(source, part) == before:
                known.keep(name, before, True)
            problems += found
    return problems


def _libraries() -> list[str]:
    """By whose classes the places are."""
    return [version(name) for name in ("diffusers", "transformers")]


def folder_of(source: ModelSource, part: str) -> Path:
    """Where the configuration and the weights of a part lie."""
    return source.vae if part == "vae" and source.vae is not None else source.folder / part


def _signature(source: ModelSource, part: str) -> list[int] | None:
    """What changes when a file of the part does; None where that may not be seen."""
    found = []
    for path in sorted(folder_of(source, part).glob("*")):
        one = settled(signature_of(path), path)
        if one is None:
            return None
        found += [len(path.name), *path.name.encode(), *one]
    return found


def _of_part(source: ModelSource, part: str) -> list[str]:
    folder = folder_of(source, part)
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        step = "download them"
        if any(folder.glob("*.bin")):
            step = "only .bin files, which can run programs and are not read; save them as safetensors"
        return [f"{part}: {folder} holds no weights (.safetensors); {step}"]
    plain = [path for path in paths if not VARIANT.search(path.name)]
    varied = [path for path in paths if source.variant and f".{source.variant}" in path.name]
    chosen = varied or plain
    if not chosen:
        variants = {found[1] for path in paths if (found := VARIANT.search(path.name))}
        return [f"{part}: its weights are there as {', '.join(sorted(variants))} only; give --variant {min(variants)}"]
    lacking = _missing_shards(chosen)
    if lacking:
        return [f"{part}: {folder} lacks {', '.join(lacking)}; download it again"]
    stored: dict[str, Stored] = {}
    for path in chosen:
        try:
            stored |= _header(path)
        except (SafetensorError, OSError) as error:
            return [f"{part}: {path} is not whole, or no safetensors file ({error}); download it again"]
    return [f"{part}: {problem}" for problem in _compared(source, part, stored)]


def _missing_shards(paths: list[Path]) -> list[str]:
    """The names of the shards that should lie beside these."""
    there = {path.name for path in paths}
    wanted = {
        SHARD.sub(f"-{number:0{len(found[1])}}-of-{found[2]}.safetensors", name)
        for name in there
        if (found := SHARD.search(name))
        for number in range(1, int(found[2]) + 1)
    }
    return sorted(wanted - there)


def _header(path: Path) -> dict[str, Stored]:
    with safe_open(path, framework="np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        return {name: Stored(tuple(piece.get_shape()), piece.get_dtype()) for name, piece in slices.items()}


def _compared(source: ModelSource, part: str, stored: dict[str, Stored]) -> list[str]:
    """What is missing, of another size, or no floating-point number."""
    found = {WRAPPERS.sub("", name): tensor for name, tensor in stored.items()}
    places = _places(source, part)
    wanted = {name for names, _ in places for name in names}
    unplaced = collections.Counter(math.prod(tensor.shape) for name, tensor in found.items() if name not in wanted)
    missing, misshapen, dtypes = [], [], set()
    for names, shape in places:
        size, name = math.prod(shape), next((name for name in names if name in found), None)
        if name is not None:
            dtypes.add(found[name].dtype)
            if math.prod(found[name].shape) != size:
                misshapen.append(f"{name} is {_sides(found[name].shape)} and should be {_sides(shape)}")
        elif part.startswith("text_encoder") or not unplaced[size]:
            missing.append(names[0])
        else:  # an older name, perhaps, which diffusers knows and turns into this one
            unplaced[size] -= 1
    odd = sorted(dtype for dtype in dtypes if not FLOATS.match(dtype))
    if odd:
        return [f"its weights are {', '.join(odd)}, no floating-point numbers; quantized models are not supported"]
    problems = [f"the files lack {len(missing)} weights: {_few(missing)}; download them again"] if missing else []
    return problems + ([f"the files do not fit config.json: {_few(misshapen)}"] if misshapen else [])


def _places(source: ModelSource, part: str) -> list[tuple[list[str], tuple[int, ...]]]:
    """The parameters that a part has by its configuration: the names of each, several where tied, and its shape."""
    model = part_on_meta(source, part)
    names: dict[int, list[str]] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(value), []).append(WRAPPERS.sub("", name))
    return [(names[id(value)], tuple(value.shape)) for value in model.parameters()]


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _few(items: list[str]) -> str:
    more = f" and {len(items) - MAX_NAMED} more" if len(items) > MAX_NAMED else ""
    return ", ".join(items[:MAX_NAMED]) + more
