"""Bases that come as one .safetensors file, the Civitai way: read through diffusers' single-file loader.

Such a file holds weights under the names of the original code and no configuration. That comes from a
folder in diffusers' layout, which may be without weights, and lends the parts that the file lacks.
"""

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import CheckpointError, listed
from pipeline.families.checkpoint import folder
from pipeline.families.checkpoint.single_file_keys import holds, names_in, prefixes
from pipeline.families.checkpoint.source import ModelSource

if TYPE_CHECKING:
    import torch

V_PREDICTION = "v_pred"  # an empty tensor of this name says so, to ComfyUI and to us


def require_readable(source: ModelSource) -> None:
    """Raise CheckpointError if diffusers cannot read the family from one file, or the file is of another model."""
    import diffusers

    if not hasattr(getattr(diffusers, source.pipeline_class), "from_single_file"):
        raise CheckpointError(f"diffusers does not read a {source.pipeline_class} from one file; give its folder.")
    file = _file_of(source)
    names = names_in(file)
    problems = [
        f"{part}: neither in the file nor, as weights, in {source.folder}"
        for part in _models(source)
        if not holds(names, source, part) and not any((source.folder / part).glob("*.safetensors"))
    ]
    predicts = source.part_config("scheduler").get("prediction_type", "epsilon")
    if V_PREDICTION in names and predicts != "v_prediction":
        problems.append(f"the file says that it predicts v, and the scheduler in {source.folder} says {predicts}")
    if problems:
        raise CheckpointError(f"{file} does not make a {source.pipeline_class}:\n{listed(problems)}")
    # Not text encoders: their files hold layers that are never used.
    counted = [part for part in _models(source) if not part.startswith("text_encoder") and holds(names, source, part)]
    problems = [problem for part in counted for problem in _miscounted(source, part, names)]
    if problems:
        raise _unfit(source, problems)


def load(source: ModelSource, parts: Collection[str], dtype: "torch.dtype") -> Any:
    """The stock pipeline with the named parts, from the file where it holds them and from the folder otherwise.

    Raises CheckpointError if file and configuration do not fit: weights of the one without a place in the other.
    """
    import diffusers

    file = _file_of(source)
    names = names_in(file)
    models = [part for part in _models(source) if part in parts]
    lent = [part for part in models if not holds(names, source, part)]
    lender = folder.load(source, lent, dtype) if lent else None
    try:
        pipe = getattr(diffusers, source.pipeline_class).from_single_file(
            str(file),
            config=str(source.folder),
            dtype=dtype,
            local_files_only=True,
            **folder.overrides(source, parts, dtype),
            **{part: getattr(lender, part) for part in lent},
        )
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise _unfit(source, [str(error)]) from error
    states = {part: getattr(pipe, part).state_dict() for part in models if part not in lent}
    problems = [f"{part}.{name} is not in the file" for part, s in states.items() for name in s if s[name].is_meta]
    if problems:
        raise _unfit(source, problems)
    for part in models:
        getattr(pipe, part).eval()  # diffusers 0.42 leaves a T5 in training mode, with dropout
    return pipe


def _file_of(source: ModelSource) -> Path:
    assert source.file is not None
    return source.file


def _unfit(source: ModelSource, problems: list[str]) -> CheckpointError:
    return CheckpointError(
        f"{source.file} does not fit the configuration in {source.folder} (--single_file_config):\n{listed(problems)}"
    )


def _miscounted(source: ModelSource, part: str, names: dict[str, tuple[int, ...]]) -> list[str]:
    """Whether the file has as many numbers for a part as its configuration has places, before anything is loaded.

    The loader drops in silence what has no place; it only renames, splits and joins, so numbers can be counted.
    """
    import diffusers
    import torch

    config = source.part_config(part)
    with torch.device("meta"):
        model = getattr(diffusers, config["_class_name"]).from_config(config)
    begin = prefixes(source, part)
    mine = [shape for name, shape in names.items() if name.startswith(begin)]
    mine = mine or list(names.values())  # of a denoiser alone
    given, placed = sum(map(math.prod, mine)), sum(value.numel() for value in model.state_dict().values())
    return [] if given == placed else [f"{part}: {given:,} numbers in the file, {placed:,} in the configuration"]


def _models(source: ModelSource) -> list[str]:
    """The parts of the pipeline that have weights and are used."""
    return [source.denoiser, *(["vae"] if source.vae is None else []), *source.text_encoders]
