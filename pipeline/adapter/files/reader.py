"""Reading an adapter in any format, strictly: what is not understood is an error, and no pickle is read.

format          names                                          scale
diffusers       unet.<layer>.lora_A.weight                     that of B, or as the header or .alpha tensors say
old diffusers   unet.<layer>.processor.to_q_lora.down.weight   that of B, or as the header says
kohya           lora_unet_<layer with _>.lora_down.weight      as .alpha tensors say
peft            base_model.model.<layer>.lora_A.weight         as adapter_config.json beside the file says

Once read, all are like the first, the scale in B.
"""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.adapter.files import kohya
from pipeline.adapter.files.checks import alpha_problems, misfits, tensor_problems, unlike
from pipeline.adapter.files.ldm_names import ldm_names
from pipeline.adapter.files.peft_config import scaled, scalings_of
from pipeline.adapter.names import ALPHA, COMPONENTS, FILE, MAGNITUDE, A, B, aliases, pairs, with_text_model
from pipeline.errors import CheckpointError, ConfigError, listed
from pipeline.families.meta import Layers, Shapes

PEFT_CONFIG, PEFT_FILE = "adapter_config.json", "adapter_model.safetensors"
HEADER_CONFIG = "lora_adapter_metadata"  # diffusers' entry in the header: '<component>.<field of LoraConfig>'
FORMATS = {
    "peft": re.compile(r"base_model\.model\..+"),
    "kohya": re.compile(r"lora_[^.]+\..+"),
    "old diffusers": re.compile(r".+(?:_lora|\.lora|\.lora_linear_layer)\.(?:down|up)\.weight"),
    "diffusers": re.compile(r".+\.lora_(?:[AB]|magnitude_vector)\b.*"),
}
_KEY = re.compile(rf"({'|'.join(COMPONENTS)})\.(.+?)({A}|{B}|{MAGNITUDE}|{ALPHA})")
_HALF = re.compile(r"(.+?)[._]lora(?:_linear_layer)?[._](down|up)\.weight")  # of kohya and old diffusers


@dataclass(frozen=True)
class AdapterFile:
    """An adapter as a file says it."""

    tensors: dict[str, Tensor]  # in diffusers' format, B scaled
    alphas: dict[str, float]  # by '<component>.<layer>': scale times rank; the rank where the file does not say
    format: str
    header: dict[str, str]  # of the safetensors file; with PEFT the text of adapter_config.json too
    path: Path


def read(path: Path, layers: Layers | None) -> AdapterFile:
    """The adapter of a file or folder, of which everything is understood and every number is fit for use.

    `layers` are `layer_shapes` of the base: kohya's and diffusers' old names need them (else ConfigError), and all are
    checked against them. Raises CheckpointError naming all that is wrong.
    """
    found = parse(path, layers)
    problems = tensor_problems(found.tensors) + alpha_problems(found.tensors, found.alphas)
    if problems:
        raise CheckpointError(f"{path} is not fit for use:\n{listed(problems)}")
    return found


def parse(path: Path, layers: Layers | None) -> AdapterFile:
    """The same without a look at the numbers, for inspection; raises ConfigError and CheckpointError likewise."""
    if path.is_dir():
        return _of_folder(path, layers)
    tensors, header = _opened(path)
    format_ = _format_of(path, tensors)
    if format_ == "peft":
        if path.name != PEFT_FILE or not (path.parent / PEFT_CONFIG).is_file():
            raise CheckpointError(f"{path} is PEFT's: its scale is in {PEFT_CONFIG}; give the folder with both.")
        return _of_peft(path.parent, layers)
    configs = _header_configs(path, header)
    if format_ == "diffusers":
        return AdapterFile(*_in_diffusers_format(path, tensors, configs, layers), format_, header, path)
    if layers is None:
        raise ConfigError(f"{path} has names ({format_}) that only its base model makes clear; give it with --base.")
    _require_same_model(path, _halves(tensors), _spelled(tensors, layers))
    names = {component: list(shapes) for component, shapes in layers.items()}
    if format_ == "kohya" and configs is not None:
        raise CheckpointError(f"{path} says its scale twice, in .alpha and in {HEADER_CONFIG}; drop one.")
    alphas: dict[str, float] = {}
    try:
        if format_ == "kohya":
            tensors, alphas = kohya.from_kohya(tensors, _prefixes(tensors, layers), names)
        else:
            tensors = kohya.from_old_diffusers(tensors, names)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    tensors, own = _in_diffusers_format(path, tensors, configs, layers)
    return AdapterFile(tensors, alphas or own, format_, header, path)


def _of_folder(folder: Path, layers: Layers | None) -> AdapterFile:
    if (folder / FILE).is_file():
        return parse(folder / FILE, layers)
    if (folder / PEFT_CONFIG).is_file():
        return _of_peft(folder, layers)
    parts = [_of_peft(folder / name, layers) for name in COMPONENTS if (folder / name / PEFT_CONFIG).is_file()]
    if not parts:
        raise CheckpointError(f"{folder} holds neither {FILE} nor {PEFT_CONFIG}; give the file of an adapter.")
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
    raw, header = _opened(folder / PEFT_FILE)
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


def _opened(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header of a safetensors file."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give the .safetensors file of an adapter, or its folder.")
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} is no .safetensors file; .bin, .pt, .ckpt are pickles, which can run programs.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()  # an open file cannot be iterated over itself
            header, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    odd = [name for name, v in tensors.items() if v.element_size() == 1 or not (v.is_floating_point() or ALPHA in name)]
    if odd:
        raise CheckpointError(f"{path} has other numbers than floating-point ones of 16 bits or more:\n{listed(odd)}")
    return tensors, header


def _format_of(path: Path, names: Collection[str]) -> str:
    """The format that most names are in; what then is left over is named when it is read."""
    count, best = max((sum(map(bool, map(form.fullmatch, names))), name) for name, form in FORMATS.items())
    if not count:
        raise CheckpointError(f"{path} holds no LoRA: its tensors have names like {sorted(names)[:1]}.")
    return best


def _prefixes(names: Iterable[str], layers: Layers) -> dict[str, str]:
    """kohya's prefixes; the first text encoder's has a number where there are two, and elsewhere sometimes."""
    first = "lora_te1" if any(name.startswith("lora_te1_") for name in names) else "lora_te"
    of_text = {"text_encoder": first, "text_encoder_2": "lora_te2", "text_encoder_3": "lora_te3"}
    return {component: of_text.get(component, f"lora_{component}") for component in layers}


def _spelled(keys: Iterable[str], layers: Layers) -> Shapes:
    """The shapes of the base's weights under every name that kohya and old diffusers give them."""
    prefixes, found = _prefixes(keys, layers), dict[str, tuple[int, ...]]()
    for component, shapes in layers.items():
        ldm, own = ldm_names(shapes), prefixes[component]
        for name, shape in shapes.items():
            stems = kohya.kohya_stems(name, own) | kohya.kohya_stems(ldm.get(name, name), own)
            found |= dict.fromkeys(stems | {f"{component}.{old}" for old in kohya.old_names(name)}, shape)
    return found


def _halves(tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Down and up by layer, in the formats that call them so."""
    found = [(match[1], match[2], v) for key, v in tensors.items() if (match := _HALF.fullmatch(key))]
    down, up = ({name: value for name, half, value in found if half == which} for which in ("down", "up"))
    return {name: (value, up[name]) for name, value in down.items() if name in up}


def _require_same_model(path: Path, found: dict[str, tuple[Tensor, Tensor]], base: Shapes) -> None:
    """One sentence where a layer has other sizes, or most layers of some part do not exist."""
    parts = defaultdict[str, list[str]](list)
    for name, (a, b) in found.items():
        parts[re.findall(r"lora_[^_]+|[^.]+", name)[0]].append(name)
        if difference := unlike(a, b, name, base.get(name)):
            raise CheckpointError(f"{path} is for another model: {difference}.")
    for own in parts.values():
        missing = [name for name in own if name not in base]
        if 2 * len(missing) >= len(own):
            which = f"{len(missing)} of its {len(own)} layers, such as {missing[0]}, are not in this base"
            raise CheckpointError(f"{path} is for another model: {which}.")


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
        _require_same_model(path, pairs(found), base)
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
