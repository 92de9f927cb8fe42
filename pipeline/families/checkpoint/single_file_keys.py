"""What one .safetensors file holds of a model, by the original names in its header."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import CheckpointError
from pipeline.families.checkpoint.source import ModelSource

PREFIX = "model.diffusion_model."  # of the denoiser; files of a denoiser alone leave it out
BARE = ("double_blocks.", "joint_blocks.")
HELD_UNDER = {  # a part of the pipeline, and how the original names of its weights begin
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoders.clip_g."),
    "text_encoder_3": ("text_encoders.t5xxl.",),
}
T5 = ("text_encoders.t5xxl.",)  # whichever of the encoders it is


def names_in(file: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors in a file, from its header alone.

    Raises CheckpointError for a file that is no model in one file of safetensors.
    """
    from safetensors import SafetensorError, safe_open

    if file.suffix != ".safetensors":
        raise CheckpointError(
            f"{file} is a file; give the folder of a diffusers model or one .safetensors file. Pickles (.ckpt, .pt) "
            "are not read: they can run anything."
        )
    try:
        with safe_open(file, framework="np") as opened:
            found = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118  # no dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {error}.") from error
    if not any(name.startswith((PREFIX, *BARE)) for name in found):
        is_adapter = any("lora" in name for name in found)
        reason = "is an adapter; give it to --init_lora" if is_adapter else "holds no denoiser under its original names"
        raise CheckpointError(f"{file} {reason}. --pretrained_model_name_or_path takes a whole model.")
    return found


def usual_config(file: Path) -> str:
    """The Hub id of the model whose configuration diffusers uses for such a file."""
    import torch
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    shapes = {name: torch.empty(shape, device="meta") for name, shape in names_in(file).items()}
    return str(fetch_diffusers_config(shapes)["pretrained_model_name_or_path"])


def prefixes(source: ModelSource, part: str) -> tuple[str, ...]:
    """How the names of a part's weights begin."""
    if part == source.denoiser:
        return (PREFIX,)
    _, class_name = source.index[part]
    return T5 if class_name.startswith("T5") else HELD_UNDER[part]


def holds(names: Iterable[str], source: ModelSource, part: str) -> bool:
    """Whether a file with these names has a part's weights."""
    return part == source.denoiser or any(name.startswith(prefixes(source, part)) for name in names)
