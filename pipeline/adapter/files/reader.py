"""Reading an adapter in any format, strictly: what is not understood is an error, and no pickle is read.

format          names                                          scale
bfl, onetrainer, xlabs and kohya's of transformers: see `foreign`
diffusers       unet.<layer>.lora_A.weight                     that of B, or as the header or .alpha tensors say
old diffusers   unet.<layer>.processor.to_q_lora.down.weight   that of B, or as the header says
kohya           lora_unet_<layer with _>.lora_down.weight      as .alpha tensors say
peft            base_model.model.<layer>.lora_A.weight         as adapter_config.json beside the file says

Once read, all are like the first, the scale in B.
"""

import dataclasses
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.adapter.files import foreign, kinds, original
from pipeline.adapter.files.checks import alpha_problems, misfits, require_same_model, tensor_problems
from pipeline.adapter.files.named_by_base import named_by_base, with_kernels_of
from pipeline.adapter.files.opened import opened
from pipeline.adapter.files.peft_config import scaled, scalings_of
from pipeline.adapter.names import (
    ALPHA,
    COMPONENTS,
    FILE,
    MAGNITUDE,
    A,
    B,
    aliases,
    is_magnitude,
    layer_of,
    pairs,
    with_text_model,
)
from pipeline.errors import CheckpointError, ConfigError, listed
from pipeline.families.meta import Layers
from pipeline.hashing import digest, digest_of_file

PEFT_CONFIG, PEFT_FILE = "adapter_config.json", "adapter_model.safetensors"
HEADER_CONFIG = "lora_adapter_metadata"  # diffusers' entry in the header: '<component>.<field of LoraConfig>'
FORMATS = {
    "peft": re.compile(r"base_model\.model\..+"),
    "kohya": re.compile(r"lora_[^.]+\..+"),
    "old diffusers": re.compile(r".+(?:_lora|\.lora|\.lora_linear_layer)\.(?:down|up)\.weight"),
    "diffusers": re.compile(r".+\.lora_(?:[AB]|magnitude_vector)\b.*"),
}
_KEY = re.compile(rf"({'|'.join(COMPONENTS)})\.(.+?)({A}|{B}|{MAGNITUDE}|{ALPHA})")


@dataclass(frozen=True)
class AdapterFile:
    """An adapter as a file says it."""

    tensors: dict[str, Tensor]  # in diffusers' format, B scaled
    alphas: dict[str, float]  # by '<component>.<layer>': scale times rank; the rank where the file does not say
    format: str
    header: dict[str, str]  # of the safetensors file; with PEFT the text of adapter_config.json too
    path: Path
    notes: tuple[str, ...] = ()  # of what the file has and is left out
    family: str | None = None  # where names say it that only one family has


def read(path: Path, layers: Layers | None, rank: int | None = None) -> AdapterFile:
    """The adapter of a file or folder, of which everything is understood and every number is fit for use.

    Layers of zeros are left out with a note: files of others have them where nothing can be learnt.
    `layers` are `layer_shapes` of the base: kohya's and diffusers' old names need them (else ConfigError), and all are
    checked against them. LoHa and LoKr are read with a `rank` only, at which a note says what is lost of them. Raises
    CheckpointError naming all that is wrong.
    """
    found = without_zeros(parse(path, layers, rank))
    problems = tensor_problems(found.tensors) + alpha_problems(found.tensors, found.alphas)
    if problems:
        raise CheckpointError(f"{path} is not fit for use:\n{listed(problems)}")
    return found


def parse(path: Path, layers: Layers | None, rank: int | None = None) -> AdapterFile:
    """The same without a look at the numbers, for inspection; raises ConfigError and CheckpointError likewise."""
    if path.is_dir():
        return _of_folder(path, layers, rank)
    tensors, header = opened(path)
    tensors, notes = kinds.plain(path, tensors, rank)
    configs = _header_configs(path, header)
    tensors = foreign.as_kohya(tensors)
    if foreign.is_foreign(tensors):
        converted = foreign.converted(path, tensors)
        found = _in_diffusers_format(path, converted, configs, layers)
        family = original.family_of(tensors)
        return AdapterFile(*found, foreign.format_of(tensors), header, path, notes, family)
    format_ = _format_of(path, tensors)
    if format_ == "peft":
        if path.name != PEFT_FILE or not (path.parent / PEFT_CONFIG).is_file():
            raise CheckpointError(f"{path} is PEFT's: its scale is in {PEFT_CONFIG}; give the folder with both.")
        return _of_peft(path.parent, layers)
    if format_ == "diffusers":
        return AdapterFile(*_in_diffusers_format(path, tensors, configs, layers), format_, header, path, notes)
    if layers is None:
        raise ConfigError(f"{path} has names ({format_}) that only its base model makes clear; give it with --base.")
    if format_ == "kohya" and configs is not None:
        raise CheckpointError(f"{path} says its scale twice, in .alpha and in {HEADER_CONFIG}; drop one.")
    tensors, alphas = named_by_base(path, tensors, format_, layers)
    tensors, own = _in_diffusers_format(path, tensors, configs, layers)
    return AdapterFile(tensors, alphas or own, format_, header, path, notes)


def files_of(path: Path) -> list[Path]:
    """The files that are read of an adapter, in an order of their own: of a run's folder only the adapter's.

    Raises CheckpointError for a folder without any.
    """
    if not path.is_dir():
        config = path.with_name(PEFT_CONFIG)
        return [config, path] if path.name == PEFT_FILE and config.is_file() else [path]
    if (path / FILE).is_file():
        return [path / FILE]
    folders = [path] if (path / PEFT_CONFIG).is_file() else [path / name for name in COMPONENTS]
    found = [one / name for one in folders if (one / PEFT_CONFIG).is_file() for name in (PEFT_CONFIG, PEFT_FILE)]
    if not found:
        raise CheckpointError(f"{path} holds neither {FILE} nor {PEFT_CONFIG}; give the file of an adapter.")
    return found


def fingerprint_of(place: str | None) -> str | None:
    """A hash of what is read of an adapter, wherever it lies; None where there is none."""
    if place is None:
        return None
    path = Path(place)
    found = files_of(path)
    if len(found) == 1:
        return digest_of_file(found[0])
    root = path if path.is_dir() else path.parent
    return digest("\n".join(f"{file.relative_to(root).as_posix()} {digest_of_file(file)}" for file in found).encode())


def without_zeros(file: AdapterFile) -> AdapterFile:
    """The same without layers that add nothing. Raises CheckpointError if none is left."""
    dora = {layer_of(name) for name in file.tensors if is_magnitude(name)}  # its magnitude does something by itself
    found = pairs(file.tensors)
    zero = {name for name, (a, b) in found.items() if name not in dora and not (a.any() and b.any())}
    if not zero:
        return file
    if len(zero) == len(found):
        raise CheckpointError(
            f"{file.path} is not fit for use: each of its {len(zero)} layers is zero and adds nothing."
        )
    number = "a layer of zeros" if len(zero) == 1 else f"{len(zero)} layers of zeros"
    note = f"{number}, {'' if len(zero) == 1 else 'such as '}{min(zero)}, left out"
    return dataclasses.replace(
        file,
        tensors={name: value for name, value in file.tensors.items() if layer_of(name) not in zero},
        alphas={name: alpha for name, alpha in file.alphas.items() if name not in zero},
        notes=(*file.notes, note),
    )


def _of_folder(folder: Path, layers: Layers | None, rank: int | None) -> AdapterFile:
    found = files_of(folder)
    if len(found) == 1:
        return parse(found[0], layers, rank)
    folders = list(dict.fromkeys(file.parent for file in found))
    if folders == [folder]:
        return _of_peft(folder, layers)
    parts = [_of_peft(one, layers) for one in folders]
    tensors = {name: value for part in parts for name, value in part.tensors.items()}
    alphas = {name: value for part in parts for name, value in part.alphas.items()}
    header = {f"{part.path.name}/{name}": text for part in parts for name, text in part.header.items()}
    return AdapterFile(tensors, alphas, "peft", header, folder)


def _of_peft(folder: Path, layers: Layers | None) -> AdapterFile:
    place = folder / PEFT_CONFIG
    text = place.read_text(encoding="utf-8", errors="replace")
    config = _json_object(place, text)
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{place}: peft_type is {config.get('peft_type')!r}; only LORA is read.")
    raw, header = opened(folder / PEFT_FILE)
    component = _component_of(folder, raw, layers)
    tensors = {re.sub(r"^base_model\.model\.", f"{component}.", name): value for name, value in raw.items()}
    tensors, alphas = _in_diffusers_format(folder, tensors, {component: config}, layers)
    return AdapterFile(tensors, alphas, "peft", {**header, PEFT_CONFIG: text}, folder)


def _component_of(folder: Path, names: Iterable[str], layers: Layers | None) -> str:
    """Which model of a pipeline a PEFT adapter is for: its folder says it, or its layers."""
    of_text = any(re.search(r"\.encoder\.layers\.\d", name) for name in names)
    if folder.name in COMPONENTS and folder.name.startswith("text_encoder") == of_text:
        return folder.name
    if layers is not None and not of_text:
        return next(iter(layers))
    of_unet = re.compile(r".*\.(?:(?:down|up)_blocks|mid_block|conv_in|conv_out|time_embedding|add_embedding)\.")
    return "text_encoder" if of_text else "unet" if any(map(of_unet.match, names)) else "transformer"


def _format_of(path: Path, names: Collection[str]) -> str:
    """The format that most names are in; what then is left over is named when it is read."""
    count, best = max((sum(map(bool, map(form.fullmatch, names))), name) for name, form in FORMATS.items())
    if not count:
        raise CheckpointError(f"{path} holds no LoRA: its tensors have names like {sorted(names)[:1]}.")
    return best


def _in_diffusers_format(
    path: Path, tensors: dict[str, Tensor], configs: dict[str, dict[str, Any]] | None, layers: Layers | None
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Tensors under the base's own names, scaled, and the alphas. Raises CheckpointError naming all that is wrong."""
    found, problems = dict[str, Tensor](), list[str]()
    for key, value in tensors.items():
        match = _KEY.fullmatch(key)
        name = f"{match[1]}.{_own_name(match[1], match[2], layers)}{match[3]}" if match else key
        if match is None or any(part in match[2].split(".") for part in ("module", "_orig_mod")):
            problems.append(f"{key}: not '<component>.<layer>{A}', {B[1:]} or {MAGNITUDE[1:]} of a pipeline")
        elif name in found:
            problems.append(f"{key}: the same layer is there under another name")
        elif configs is not None and name.endswith(ALPHA):
            problems.append(f"{key}: the settings say the scale, too")
        else:
            found[name] = value
    scalings, wrong = scalings_of(configs, found)
    problems += misfits(found) + wrong
    if problems:
        raise CheckpointError(f"{path} is not understood:\n{listed(problems)}")
    if layers is not None:
        base = {f"{part}.{name}": shape for part, shapes in layers.items() for name, shape in shapes.items()}
        found = with_kernels_of(found, base)
        require_same_model(path, pairs(found), base)
        problems = [f"{name}: the base has no such layer" for name in pairs(found) if name not in base]
    result, alphas, wrong = scaled(found, scalings)
    if problems + wrong:
        raise CheckpointError(f"{path} does not fit:\n{listed(problems + wrong)}")
    return result, alphas


def _own_name(component: str, layer: str, layers: Layers | None) -> str:
    """The base's name of a layer; of CLIP there are two, with and without 'text_model.', which files have."""
    own = (layers or {}).get(component, {})
    return next((name for name in aliases(layer) if name in own), with_text_model(layer))


def _header_configs(path: Path, header: dict[str, str]) -> dict[str, dict[str, Any]] | None:
    """What diffusers noted of every component, if anything."""
    if HEADER_CONFIG not in header:
        return None
    configs: dict[str, dict[str, Any]] = {}
    for name, value in _json_object(path, header[HEADER_CONFIG]).items():
        component, _, field = name.partition(".")
        configs.setdefault(component, {})[field] = value
    return configs


def _json_object(path: Path, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: the settings of the adapter must be a JSON object, not {text[:40]!r}.")
    return found
