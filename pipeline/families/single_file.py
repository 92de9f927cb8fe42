"""Bases that come as one .safetensors file, the Civitai way: read through diffusers' single-file loader.

Such a file holds weights under the names of the original code and no configuration. That comes from a
folder in diffusers' layout, which may be without weights, and lends the parts that the file lacks.
"""

import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import CheckpointError, listed
from pipeline.families import folder

if TYPE_CHECKING:
    import torch

    from pipeline.families.base import Family

PREFIX = "model.diffusion_model."  # of the denoiser; files of a denoiser alone leave it out
BARE = ("double_blocks.", "joint_blocks.")
HELD_UNDER = {  # a part of the pipeline, and how the original names of its weights begin
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoders.clip_g."),
    "text_encoder_3": ("text_encoders.t5xxl.",),
}
T5 = ("text_encoders.t5xxl.",)  # whichever of the encoders it is
V_PREDICTION = "v_pred"  # an empty tensor of this name says so, to ComfyUI and to us


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
            found = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
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


def require_readable(family: "Family", file: Path) -> None:
    """Raise CheckpointError if diffusers cannot read the family from one file, or the file is of another model."""
    import diffusers

    if not hasattr(getattr(diffusers, family.pipeline_class), "from_single_file"):
        raise CheckpointError(f"diffusers does not read a {family.pipeline_class} from one file; give its folder.")
    names = names_in(file)
    problems = [
        f"{part}: neither in the file nor, as weights, in {family.folder}"
        for part in _models(family)
        if not _holds(names, family, part) and not any((family.folder / part).glob("*.safetensors"))
    ]
    predicts = family.part_config("scheduler").get("prediction_type", "epsilon")
    if V_PREDICTION in names and predicts != "v_prediction":
        problems.append(f"the file says that it predicts v, and the scheduler in {family.folder} says {predicts}")
    if problems:
        raise CheckpointError(f"{file} does not make a {family.pipeline_class}:\n{listed(problems)}")


def load(family: "Family", file: Path, parts: Collection[str], dtype: "torch.dtype") -> Any:
    """The stock pipeline with the named parts, from the file where it holds them and from the folder otherwise.

    Raises CheckpointError if file and configuration do not fit: weights of the one without a place in the other.
    """
    import diffusers

    names = names_in(file)
    models = [part for part in _models(family) if part in parts]
    lent = [part for part in models if not _holds(names, family, part)]
    lender = folder.load(family, lent, dtype) if lent else None
    try:
        pipe = getattr(diffusers, family.pipeline_class).from_single_file(
            str(file),
            config=str(family.folder),
            dtype=dtype,
            local_files_only=True,
            **folder.absent(family, parts),
            **{part: getattr(lender, part) for part in lent},
        )
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise _unfit(family, file, [str(error)]) from error
    problems = [problem for part in models if part not in lent for problem in _lost(pipe, family, part, names)]
    if problems:
        raise _unfit(family, file, problems)
    for part in models:
        getattr(pipe, part).eval()  # diffusers 0.42 leaves a T5 in training mode, with dropout
    return pipe


def _unfit(family: "Family", file: Path, problems: list[str]) -> CheckpointError:
    return CheckpointError(
        f"{file} does not fit the configuration in {family.folder} (--single_file_config):\n{listed(problems)}"
    )


def _lost(pipe: Any, family: "Family", part: str, names: dict[str, tuple[int, ...]]) -> list[str]:
    """What one part has without getting it, and what the file has for it without a place.

    The loader says nothing of the second, and only renames, splits and joins: so numbers can be counted.
    Text encoders are left out of the count: their files hold layers that are never used.
    """
    state = getattr(pipe, part).state_dict()
    missing = [f"{part}.{name} is not in the file" for name, value in state.items() if value.is_meta]
    if missing or part.startswith("text_encoder"):
        return missing
    prefixes = _prefixes(family, part)
    mine = [shape for name, shape in names.items() if name.startswith(prefixes)]
    mine = mine or list(names.values())  # of a denoiser alone
    given, placed = sum(map(math.prod, mine)), sum(value.numel() for value in state.values())
    return [] if given == placed else [f"{part}: {given:,} numbers in the file, {placed:,} in the configuration"]


def _models(family: "Family") -> list[str]:
    """The parts of the pipeline that have weights and are used."""
    return [family.denoiser, "vae", *(part for part in family.encoders if part.startswith("text_encoder"))]


def _prefixes(family: "Family", part: str) -> tuple[str, ...]:
    if part == family.denoiser:
        return (PREFIX,)
    _, class_name = family.index[part]
    return T5 if class_name.startswith("T5") else HELD_UNDER[part]


def _holds(names: Iterable[str], family: "Family", part: str) -> bool:
    return part == family.denoiser or any(name.startswith(_prefixes(family, part)) for name in names)
