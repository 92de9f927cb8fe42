"""The format of kohya's scripts, which ComfyUI and A1111 read: 'lora_unet_<layer>.lora_down.weight'.

Dots inside a layer's name become underscores, A and B are called down and up, and a scalar beside
them holds alpha: what is added to the weight is (alpha / rank) up @ down. Our own file has that
factor in B already. So up = B rank / alpha on the way out, and B = up alpha / rank on the way in.

DoRA does not fit in. With m the magnitude, W the base weight and D the addition, PEFT takes
m (W + D) / |W + D|, as in the paper; ComfyUI takes m (W + D) / |W| where m has one number per output,
and older versions norm over the other axis. Only somebody who holds W could convert one to the other.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pipeline.adapter.files.ldm_names import ldm_names
from pipeline.adapter.names import BIASES, A, B, is_magnitude, with_text_model
from pipeline.errors import CheckpointError, ConfigError, listed
from pipeline.geometry import Size

RANK_AND_ALPHA = ("ss_network_dim", "ss_network_alpha")  # in the header
DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"
_KOHYA = {f".{DOWN}": "A", f".{UP}": "B", f".{ALPHA}": "alpha"}
_OLD_DIFFUSERS = {
    "_lora.down.weight": "A",
    "_lora.up.weight": "B",
    ".lora.down.weight": "A",
    ".lora.up.weight": "B",
    ".lora_linear_layer.down.weight": "A",
    ".lora_linear_layer.up.weight": "B",
}
# The original names of these are known to ComfyUI and to diffusers; diffusers drops the others (0.42).
_BOTH_READ = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
_DIFFUSERS = re.compile(r"([^.]+)\.(.+)\.lora_([AB])\.weight")
_ATTENTION = re.compile(r"(.+\.attn\d)\.(.+?)(?:\.0)?")
_TEXT_ATTENTION = re.compile(r"(.+\.self_attn)\.(q|k|v|out)_proj")

Layer = tuple[str, str]  # component and layer: ("unet", "mid_block.attentions.0.proj_in")


def to_kohya(
    tensors: dict[str, Tensor],
    prefixes: dict[str, str],
    alphas: dict[str, float],
    original: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """An adapter in diffusers' format as kohya has it.

    `prefixes` has kohya's prefix of every component ({"unet": "lora_unet", "text_encoder": "lora_te"}),
    `alphas` the true alpha by '<component>.<layer>': the layer's scale times its rank in `tensors`. Where
    it is missing, alpha is the rank. Any alpha gives the same addition, since B makes up for it; one for
    all layers lets stock diffusers read the file too, which forgets alphas that differ (0.42). `original` has the
    UNet's LDM names, of all its layers or none: A1111, InvokeAI and diffusers lose layers where both occur. Raises
    ConfigError for what the format cannot express (DoRA, biases), and CheckpointError for tensors that
    are no adapter in diffusers' format.
    """
    refuse_inexpressible(tensors)
    found, problems = _layers_of(tensors, prefixes)
    converted = {}
    for (component, layer), (down, up) in found.items():
        rank = down.shape[0]
        alpha = alphas.get(f"{component}.{layer}", float(rank))
        if not math.isfinite(alpha) or alpha == 0:
            problems.append(f"{component}.{layer}: alpha is {alpha:g}, but must be a number that is not 0")
            continue
        stem = kohya_stem((original or {}).get(layer, layer), prefixes[component])
        if f"{stem}.{DOWN}" in converted:
            problems.append(f"{component}.{layer}: another layer has the same name in kohya's format, {stem}")
        converted[f"{stem}.{DOWN}"] = down
        converted[f"{stem}.{UP}"] = up * (rank / alpha)
        converted[f"{stem}.{ALPHA}"] = torch.tensor(alpha, dtype=torch.float32)
    if problems:
        raise CheckpointError(f"This adapter cannot be written in kohya's format:\n{listed(problems)}")
    return converted


def from_kohya(
    tensors: dict[str, Tensor], prefixes: dict[str, str], layers: dict[str, list[str]]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """A file in kohya's format in diffusers' format, B scaled, and the alphas by '<component>.<layer>'.

    `layers` has all the linear and convolutional layers of every component, which is what makes the
    underscores unambiguous; a UNet's are understood under their LDM names too. Without .alpha, alpha is
    the rank. Raises one CheckpointError that names every key without a layer, given twice or lacking its
    other half.
    """
    spelled: dict[str, Layer] = {}
    for component, names in layers.items():
        for layer in names:
            spelled |= dict.fromkeys(kohya_stems(layer, prefixes[component]), (component, layer))
        for layer, name in ldm_names(names).items():
            spelled.setdefault(kohya_stem(name, prefixes[component]), (component, layer))
    return _read(tensors, spelled, _KOHYA)


def from_old_diffusers(tensors: dict[str, Tensor], layers: dict[str, list[str]]) -> dict[str, Tensor]:
    """A file of diffusers before PEFT ('unet...attn1.processor.to_q_lora.down.weight') in diffusers' format.

    `layers` and the errors are those of `from_kohya`. Such files know no alpha: it is the rank.
    """
    spelled = {
        f"{component}.{name}": (component, layer)
        for component, names in layers.items()
        for layer in names
        for name in old_names(layer)
    }
    return _read(tensors, spelled, _OLD_DIFFUSERS)[0]


def modelspec(
    *,
    architecture: str,
    title: str,
    size: Size,
    rank: int,
    alpha: float,
    trigger: str | None = None,
    licence: str | None = None,
    tensors_digest: str | None = None,
) -> dict[str, str]:
    """The header of a shared file: ModelSpec 1.0.1 and kohya's rank and alpha. No paths, no captions.

    `architecture` is ModelSpec's name of the base model (stable-diffusion-v1, stable-diffusion-v2-768-v,
    stable-diffusion-xl-v1-base), `size` the one it was trained at, `tensors_digest` what `digest` gives.
    """
    fields = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{architecture.removesuffix('/lora')}/lora",
        "implementation": "diffusers",  # whose names the layers have
        "title": title,
        "resolution": f"{size.width}x{size.height}",
        "trigger_phrase": trigger,
        "license": licence,
        "hash_sha256": tensors_digest,
    }
    header = {f"modelspec.{name}": value for name, value in fields.items() if value}
    return {**header, **dict(zip(RANK_AND_ALPHA, (str(rank), str(alpha)), strict=True))}


def digest(tensors: dict[str, Tensor]) -> str:
    """ModelSpec's hash_sha256: that of the file without its header, '0x' before it."""
    from safetensors.torch import save

    content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    length_header = int.from_bytes(content[:8], "little")
    return f"0x{hashlib.sha256(memoryview(content)[8 + length_header :]).hexdigest()}"


def kohya_stem(layer: str, prefix: str) -> str:
    """What kohya calls a layer: 'lora_te_text_model_encoder_layers_0_mlp_fc1'."""
    return f"{prefix}_{_BOTH_READ.get(layer, with_text_model(layer)).replace('.', '_')}"


def kohya_stems(layer: str, prefix: str) -> set[str]:
    """What a layer may be called in a file of somebody else."""
    return {kohya_stem(layer, prefix), f"{prefix}_{layer.replace('.', '_')}"}


def old_names(layer: str) -> Iterator[str]:
    """Every name that diffusers before PEFT gave a layer."""
    for name in {layer, with_text_model(layer)}:
        yield name
        if match := _ATTENTION.fullmatch(name):
            yield f"{match[1]}.processor.{match[2]}"
        if match := _TEXT_ATTENTION.fullmatch(name):
            yield f"{match[1]}.to_{match[2]}"


def refuse_inexpressible(
    tensors: dict[str, Tensor],
    reason: str = "ComfyUI divides by the norm of the base weight, DoRA by that of the base and the addition together",
) -> None:
    """Raise ConfigError for what plain pairs of A and B cannot express: DoRA, for this `reason`, and biases."""
    dora = [name for name in tensors if is_magnitude(name)]
    if dora:
        raise ConfigError(
            f"A DoRA adapter has no equal in kohya's format or ComfyUI: {reason}. Share the file for diffusers, or "
            "give export --rank:\n"
            f"{listed(dora)}"
        )
    biases = [name for name in tensors if name.endswith(BIASES)]
    if biases:
        raise ConfigError(f"kohya's format has no biases; train without lora_bias:\n{listed(biases)}")


def _layers_of(
    tensors: dict[str, Tensor], prefixes: dict[str, str]
) -> tuple[dict[Layer, tuple[Tensor, Tensor]], list[str]]:
    """A and B of every layer in a file of diffusers, and what is wrong with the rest."""
    found: dict[Layer, dict[str, str]] = {}
    problems = []
    for key in tensors:
        match = _DIFFUSERS.fullmatch(key)
        if not match:
            problems.append(f"{key}: not called '<component>.<layer>.lora_A.weight' or lora_B")
        elif match[1] not in prefixes:
            problems.append(f"{key}: no prefix is known for {match[1]}")
        else:
            found.setdefault((match[1], match[2]), {})[match[3]] = key
    pairs = {}
    for layer, keys in found.items():
        wrong = _unpaired(keys, tensors)
        problems += wrong
        if not wrong:
            pairs[layer] = tensors[keys["A"]], tensors[keys["B"]]
    return pairs, problems


def _unpaired(keys: dict[str, str], tensors: dict[str, Tensor]) -> list[str]:
    """What is wrong with one layer, whose keys are given by kind (A, B, alpha)."""
    if missing := [name for kind, name in (("A", "down (A)"), ("B", "up (B)")) if kind not in keys]:
        return [f"{key}: the layer lacks its {' and its '.join(missing)}" for key in keys.values()]
    down, up = tensors[keys["A"]], tensors[keys["B"]]
    if down.dim() < 2 or up.dim() < 2 or down.shape[0] != up.shape[1]:
        return [f"{keys['B']}: {list(up.shape)} does not fit {list(down.shape)} of {keys['A']}"]
    if "alpha" in keys:
        alpha = tensors[keys["alpha"]]
        if alpha.numel() != 1 or not math.isfinite(alpha.item()) or alpha.item() == 0:
            return [f"{keys['alpha']}: must be one number that is not 0"]
    return []


def _read(
    tensors: dict[str, Tensor], spelled: dict[str, Layer], kinds: dict[str, str]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Tensors in diffusers' format and alphas; `spelled` says what the layers are called, `kinds` the tensors."""
    found: dict[Layer, dict[str, str]] = {}
    problems = []
    for key in tensors:
        ending = next((ending for ending in kinds if key.endswith(ending)), None)
        layer = spelled.get(key.removesuffix(ending)) if ending else None
        if ending is None:
            problems.append(f"{key}: not a tensor of a plain LoRA, which end in {', '.join(kinds)}")
        elif layer is None:
            problems.append(f"{key}: the model has no such layer")
        elif kinds[ending] in found.setdefault(layer, {}):
            problems.append(f"{key}: the same as {found[layer][kinds[ending]]}, under another name")
        else:
            found[layer][kinds[ending]] = key
    problems += [problem for keys in found.values() for problem in _unpaired(keys, tensors)]
    if problems:
        raise CheckpointError(f"This file is not an adapter of this model:\n{listed(problems)}")

    found_tensors, alphas = {}, {}
    for (component, name), keys in found.items():
        down, up = tensors[keys["A"]], tensors[keys["B"]]
        alpha = float(tensors[keys["alpha"]].item()) if "alpha" in keys else float(down.shape[0])
        found_tensors[f"{component}.{name}{A}"] = down
        found_tensors[f"{component}.{name}{B}"] = up * (alpha / down.shape[0])
        alphas[f"{component}.{name}"] = alpha
    return found_tensors, alphas
