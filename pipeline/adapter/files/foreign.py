"""Files of other trainers for transformers: FLUX's of kohya, ai-toolkit, XLabs and OneTrainer, SD3's, Lumina 2's.

FLUX's names are read through the stock pipeline's own `lora_state_dict`, layer by layer, so that what it drops can be
named. Own code stands for what the stock conversion (diffusers 0.42) gets wrong:

- alpha is lost of OneTrainer's layers and of the last one; so it never sees alpha;
- layers outside blocks lack 'transformer.' and are then ignored; it is added;
- `diffusion_model.` is converted with lora_down and lora_up only, and is ignored with lora_A and lora_B;
- FLUX's fused `linear1` is cut at the width 3072, Lumina 2's qkv at 2304 and in whole blocks, and more blocks than
  FLUX.1 has are refused; SD3's original names are not known at all: these are in `original.TABLES`;
- `lora_transformer_...` names all layers of a block's MLP alike.
"""

import re
from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from pipeline.adapter.files import original
from pipeline.adapter.files.original import Pair
from pipeline.adapter.names import ALPHA, COMPONENTS, A, B
from pipeline.console import quiet_libraries
from pipeline.errors import CheckpointError, listed

_HALF = re.compile(r"(.+?)\.(?:lora_(?P<first>down|up|A|B)|lora\.(?P<second>down|up)|(?P<xlabs>down|up))\.weight")
_DOWN, _UP = ".lora_down.weight", ".lora_up.weight"
_DENOISER = ("lora_unet_", "diffusion_model.", "base_model.model.", "lora_transformer_", "transformer.", "unet.", "")
_TEXT = {
    "text_encoder": ("lora_te1_", "lora_te_", "text_encoders.clip_l.transformer.", "text_encoders.clip_l."),
    "text_encoder_2": ("lora_te2_", "text_encoders.clip_g.transformer.", "text_encoders.clip_g."),
}
_WORDS = (  # of diffusers' and transformers' names that have an underscore themselves
    *("single_transformer_blocks", "transformer_blocks", "noise_refiner", "context_refiner", "time_text_embed"),
    *("time_caption_embed", "timestep_embedder", "text_embedder", "guidance_embedder", "caption_embedder"),
    *("context_embedder", "x_embedder", "pos_embed", "patch_embed", "caption_projection", "time_embed"),
    *("to_add_out", "to_q", "to_k", "to_v", "to_out", "add_q_proj", "add_k_proj", "add_v_proj"),
    *("ff_context", "feed_forward", "proj_mlp", "proj_out", "norm1_context", "norm_out", "linear_1", "linear_2"),
    *("linear_3", "conv_inverted", "conv_depth", "conv_point"),
    *("text_model", "text_projection", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
)
_WORD = re.compile(rf"(?:{'|'.join(_WORDS)}|[^_]+)(?=_|$)")
_BLOCKS = r"(?:single_)?transformer_blocks\.\d|(?:layers|noise_refiner|context_refiner)\.\d"
_FOREIGN = (
    re.compile(r"(?:diffusion_model|text_encoders)\..*|lora_transformer_.*"),
    re.compile(rf"(?:{_BLOCKS}).*"),
    re.compile(rf"(?:{'|'.join(COMPONENTS)})\..+\.lora_(?:down|up)\.weight"),
)
_UNET = re.compile(r"diffusion_model\.((?:input_blocks|middle_block|output_blocks|time_embed|label_emb|out)\..+)")


def is_foreign(names: Collection[str]) -> bool:
    """Whether a file has such names. Those of UNets with underscores are not: `kohya` reads them."""
    return original.family_of(names) is not None or any(form.fullmatch(name) for name in names for form in _FOREIGN)


def as_kohya(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """ComfyUI's names for a UNet and its text encoders, 'diffusion_model.input_blocks...', as kohya has them."""
    if not any(_UNET.fullmatch(name) for name in tensors):
        return tensors
    renamed = {}
    for name, value in tensors.items():
        stem, ending = _parted(name)
        own = re.sub(r"^diffusion_model\.", "lora_unet_", stem)
        for component, prefix in (("text_encoder", "lora_te1_"), ("text_encoder_2", "lora_te2_")):
            own = next((f"{prefix}{own[len(p) :]}" for p in _TEXT[component] if own.startswith(p)), own)
        renamed[f"{own.replace('.', '_')}{ending}"] = value
    return renamed


def _parted(name: str) -> tuple[str, str]:
    """The layer and the kind of a tensor, as kohya ends it; no kind where it is none of a LoRA."""
    if match := _HALF.fullmatch(name):
        half = match["first"] or match["second"] or match["xlabs"]
        return match[1], _DOWN if half in ("down", "A") else _UP
    return (name.removesuffix(ALPHA), ALPHA) if name.endswith(ALPHA) else (name, "")


def format_of(names: Collection[str]) -> str:
    """What such a file is called."""
    if any(".processor." in name for name in names):
        return "xlabs"
    if any(name.startswith(("lora_unet_", "lora_transformer_")) for name in names):
        return "kohya"
    return "bfl" if original.family_of(names) else "onetrainer"


def converted(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Such a file in diffusers' format, B as it is and the scale in '<component>.<layer>.alpha' where there is one.

    Raises one CheckpointError that names every tensor which is not understood.
    """
    stems: dict[str, dict[str, Tensor]] = {}
    problems = []
    for name, value in tensors.items():
        stem, ending = _parted(name)
        if not ending:
            problems.append(f"{name}: not a tensor of a plain LoRA")
        elif ending in stems.setdefault(stem, {}):
            problems.append(f"{name}: the same layer is there under another name")
        else:
            stems[stem][ending] = value
    family = original.family_of(stems)
    result = dict[str, Tensor]()
    with quiet_libraries():
        for stem, parts in stems.items():
            if (wrong := _unpaired(parts)) is not None:
                problems.append(f"{stem}: {wrong}")
                continue
            layers = _layers(stem, parts[_DOWN], parts[_UP], family)
            problems += [] if layers else [f"{stem}: no layer is known by this name"]
            for layer, (a, b) in layers.items():
                problems += [f"{stem}: {layer} is there under another name"] if f"{layer}{A}" in result else []
                result |= {f"{layer}{A}": a, f"{layer}{B}": b}
                if ALPHA in parts:
                    result[f"{layer}{ALPHA}"] = parts[ALPHA].double() * (len(a) / len(parts[_DOWN]))
    if problems:
        raise CheckpointError(f"{path} is not understood:\n{listed(problems)}")
    return result


def _unpaired(parts: dict[str, Tensor]) -> str | None:
    """What keeps the tensors of one layer from being a pair of A and B, in words."""
    if missing := [ending for ending in (_DOWN, _UP) if ending not in parts]:
        return f"lacks its {' and its '.join(ending[1:] for ending in missing)}"
    a, b = parts[_DOWN], parts[_UP]
    if min(a.ndim, b.ndim) < 2 or b.shape[1] != len(a):
        return f"B of {list(b.shape)} does not fit A of {list(a.shape)}"
    return None


def _layers(stem: str, a: Tensor, b: Tensor, family: str | None) -> dict[str, Pair]:
    """The layers of diffusers that one of the file is, by '<component>.<layer>'; none if the name is not known."""
    for component, prefixes in _TEXT.items():
        for prefix in prefixes:
            if stem.startswith(prefix):
                return {f"{component}.{_dotted(stem.removeprefix(prefix))}": (a, b)}
    component, _, rest = stem.partition(".")
    if component in COMPONENTS and not (family and original.layers_of(rest, family)):
        return {stem: (a, b)}
    if stem.startswith("lora_transformer_"):
        return {f"transformer.{_dotted(stem.removeprefix('lora_transformer_'))}": (a, b)}
    if family == "flux" and (found := _by_stock(stem, a, b)):
        return found
    name = next(stem.removeprefix(prefix) for prefix in _DENOISER if stem.startswith(prefix))
    layers = original.layers_of(name, family) if family else None
    if layers:
        return {f"transformer.{layer}": pair for layer, pair in original.split(a, b, layers).items()}
    return {f"transformer.{name}": (a, b)} if re.match(_BLOCKS, name) else {}


def _by_stock(stem: str, a: Tensor, b: Tensor) -> dict[str, Pair]:
    """What the stock pipeline makes of one layer of FLUX; nothing where it cannot."""
    from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin

    bare = re.sub(r"^(?:diffusion_model|base_model\.model|transformer)\.", "", stem)
    name = f"diffusion_model.{bare}" if original.layers_of(bare, "flux") else stem
    half = "" if ".processor." in name else "lora_"
    try:
        found = FluxLoraLoaderMixin.lora_state_dict({f"{name}.{half}down.weight": a, f"{name}.{half}up.weight": b})
    except (ValueError, KeyError, AssertionError, NotImplementedError):
        return {}
    layers = sorted({re.sub(r"\.lora_[AB]\.weight$", "", key) for key in found})
    if any(f"{layer}{half}" not in found for layer in layers for half in (A, B)):
        return {}
    several = len(layers) > 1
    return {
        layer if layer.startswith("transformer.") else f"transformer.{layer}": original.used(
            found[f"{layer}{A}"], found[f"{layer}{B}"]
        )
        if several
        else (found[f"{layer}{A}"], found[f"{layer}{B}"])
        for layer in layers
    }


def _dotted(name: str) -> str:
    """A name with underscores for dots as diffusers and transformers have it."""
    return name if "." in name else ".".join(_WORD.findall(name))
