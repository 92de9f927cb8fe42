"""Bases that come as one .safetensors file, the Civitai way: read through diffusers' single-file loader.

Such a file holds weights under the names of the original code and no configuration. That comes from a
folder in diffusers' layout, which may be without weights, and lends the parts that the file lacks.
"""

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import CheckpointError, listed
from pipeline.families import folder
from pipeline.families.held import holds, names_in, prefixes

if TYPE_CHECKING:
    import torch

    from pipeline.families.base import Family

V_PREDICTION = "v_pred"  # an empty tensor of this name says so, to ComfyUI and to us


def require_readable(family: "Family") -> None:
    """Raise CheckpointError if diffusers cannot read the family from one file, or the file is of another model."""
    import diffusers

    if not hasattr(getattr(diffusers, family.pipeline_class), "from_single_file"):
        raise CheckpointError(f"diffusers does not read a {family.pipeline_class} from one file; give its folder.")
    file = _file_of(family)
    names = names_in(file)
    problems = [
        f"{part}: neither in the file nor, as weights, in {family.folder}"
        for part in _models(family)
        if not holds(names, family, part) and not any((family.folder / part).glob("*.safetensors"))
    ]
    predicts = family.part_config("scheduler").get("prediction_type", "epsilon")
    if V_PREDICTION in names and predicts != "v_prediction":
        problems.append(f"the file says that it predicts v, and the scheduler in {family.folder} says {predicts}")
    if problems:
        raise CheckpointError(f"{file} does not make a {family.pipeline_class}:\n{listed(problems)}")
    # Not text encoders: their files hold layers that are never used.
    counted = [part for part in _models(family) if not part.startswith("text_encoder") and holds(names, family, part)]
    problems = [problem for part in counted for problem in _miscounted(family, part, names)]
    if problems:
        raise _unfit(family, problems)


def load(family: "Family", parts: Collection[str], dtype: "torch.dtype") -> Any:
    """The stock pipeline with the named parts, from the file where it holds them and from the folder otherwise.

    Raises CheckpointError if file and configuration do not fit: weights of the one without a place in the other.
    """
    import diffusers

    file = _file_of(family)
    names = names_in(file)
    models = [part for part in _models(family) if part in parts]
    lent = [part for part in models if not holds(names, family, part)]
    lender = folder.load(family, lent, dtype) if lent else None
    try:
        pipe = getattr(diffusers, family.pipeline_class).from_single_file(
            str(file),
            config=str(family.folder),
            dtype=dtype,
            local_files_only=True,
            **folder.others(family, parts, dtype),
            **{part: getattr(lender, part) for part in lent},
        )
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise _unfit(family, [str(error)]) from error
    states = {part: getattr(pipe, part).state_dict() for part in models if part not in lent}
    problems = [f"{part}.{name} is not in the file" for part, s in states.items() for name in s if s[name].is_meta]
    if problems:
        raise _unfit(family, problems)
    for part in models:
        getattr(pipe, part).eval()  # diffusers 0.42 leaves a T5 in training mode, with dropout
    return pipe


def _file_of(family: "Family") -> Path:
    assert family.place.file is not None
    return family.place.file


def _unfit(family: "Family", problems: list[str]) -> CheckpointError:
    return CheckpointError(
        f"{family.place.file} does not fit the configuration in {family.folder} (--single_file_config):\n"
        f"{listed(problems)}"
    )


def _miscounted(family: "Family", part: str, names: dict[str, tuple[int, ...]]) -> list[str]:
    """Whether the file has as many numbers for a part as its configuration has places, before anything is loaded.

    The loader drops in silence what has no place; it only renames, splits and joins, so numbers can be counted.
    """
    import diffusers
    import torch

    config = family.part_config(part)
    with torch.device("meta"):
        model = getattr(diffusers, config["_class_name"]).from_config(config)
    begin = prefixes(family, part)
    mine = [shape for name, shape in names.items() if name.startswith(begin)]
    mine = mine or list(names.values())  # of a denoiser alone
    given, placed = sum(map(math.prod, mine)), sum(value.numel() for value in model.state_dict().values())
    return [] if given == placed else [f"{part}: {given:,} numbers in the file, {placed:,} in the configuration"]


def _models(family: "Family") -> list[str]:
    """The parts of the pipeline that have weights and are used."""
    vae = ["vae"] if family.place.vae is None else []
    readers = [
        part for part in family.encoders if part.startswith("text_encoder") and family.index[part][0] is not None
    ]
    return [family.denoiser, *vae, *readers]
