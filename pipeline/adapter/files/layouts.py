"""An adapter's tensors under the names of other programs: kohya's scripts, ComfyUI, Black Forest Labs' own code.

kohya     UNets as `kohya` says; transformers under their original names with underscores, 'lora_unet_double_blocks_...'
bfl       FLUX under its original names, 'diffusion_model.double_blocks...', as ai-toolkit and ComfyUI have them
comfyui   whichever of these ComfyUI reads of a family, or diffusers' own names where it reads those

The original names are written with lora_down and lora_up: stock diffusers reads no others after 'diffusion_model.'.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from pipeline.adapter.files import kohya, original
from pipeline.adapter.files.ldm_names import ldm_names
from pipeline.adapter.names import as_in_files, pairs, with_text_model
from pipeline.errors import CheckpointError, ConfigError, listed
from pipeline.families.base import Family
from pipeline.families.meta import Shapes

Layout = Literal["kohya", "bfl", "comfyui"]
Style = Literal["kohya", "dotted"]
_TEXT = {  # what comes before a layer of CLIP
    "kohya": {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
    "dotted": {
        "text_encoder": "text_encoders.clip_l.transformer.",
        "text_encoder_2": "text_encoders.clip_g.transformer.",
    },
}


def require_names(layout: Layout, family: type[Family]) -> None:
    """Raise ConfigError for a layout that has names for other families alone."""
    if layout == "bfl" and not family.has_bfl_names:
        raise ConfigError(f"--kind bfl has the names of FLUX's own code; an adapter of {family.name} has none there.")


def to_layout(
    layout: Layout,
    tensors: dict[str, Tensor],
    alphas: dict[str, float],
    family: type[Family],
    shapes: Mapping[str, Shapes],
) -> dict[str, Tensor]:
    """An adapter in diffusers' format under the names of a layout.

    `shapes` are those of the base's layers by component, as far as they are known: of a UNet all, else the sizes of
    what is adapted are taken. Raises ConfigError for a layout that the family has not, and for what it cannot express
    (DoRA, biases), CheckpointError for tensors that are none of the family.
    """
    require_names(layout, family)
    if family.comfyui_prefixes:
        names = ldm_names(shapes[family.denoiser]) if family.comfyui_knows_original_names else {}
        return kohya.to_kohya(tensors, family.comfyui_prefixes, alphas, names)
    if layout == "comfyui" and family.comfyui_reads_diffusers:
        kohya.refuse_inexpressible(tensors, "ComfyUI drops the magnitudes with a warning")
        return as_in_files(tensors)
    if family.name not in original.TABLES or (layout == "comfyui" and not family.comfyui_knows_original_names):
        raise ConfigError(
            f"There is nothing to export: no program but diffusers has names for {family.name}. Export it to diffusers."
        )
    kohya.refuse_inexpressible(tensors)
    return originally(tensors, family.name, "kohya" if layout == "kohya" else "dotted", shapes.get(family.denoiser, {}))


def originally(tensors: dict[str, Tensor], family: str, style: Style, shapes: Shapes) -> dict[str, Tensor]:
    """A transformer's adapter under its original names; of what is fused there, the parts are put together.

    Raises CheckpointError for layers that have no original name.
    """
    found = {name: pair for name, pair in pairs(tensors).items() if name.startswith("transformer.")}
    parts = {name.partition(".")[2]: pair for name, pair in found.items()}
    sizes = {name: shape[0] for name, shape in shapes.items()}
    names, unknown = original.original_of(parts, family)
    written = {name: original.joined(parts, layers, sizes) for name, layers in names.items()}
    stems = {f"diffusion_model.{name}": pair for name, pair in written.items()}
    if style == "kohya":
        stems = {f"lora_unet_{name.replace('.', '_')}": pair for name, pair in written.items()}
    for name, pair in pairs(tensors).items():
        component, _, layer = name.partition(".")
        if component in _TEXT[style]:
            own = with_text_model(layer)
            stems[_TEXT[style][component] + (own.replace(".", "_") if style == "kohya" else own)] = pair
        elif name not in found:
            unknown.append(name)
    if unknown:
        raise CheckpointError(f"These layers have no name in {family}'s original code:\n{listed(sorted(unknown))}")
    result = dict[str, Tensor]()
    for stem, (a, b) in stems.items():
        result |= {f"{stem}.{kohya.DOWN}": a.contiguous(), f"{stem}.{kohya.UP}": b.contiguous()}
        if style == "kohya":
            result[f"{stem}.{kohya.ALPHA}"] = torch.tensor(float(len(a)), dtype=torch.float32)
    return result
