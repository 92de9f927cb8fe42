"""Which families there are, and which of them a model folder belongs to."""

import json
from importlib import import_module
from pathlib import Path

from pipeline.errors import CheckpointError
from pipeline.families.base import Family
from pipeline.families.options import INDEX, ModelOptions

REGISTRY = {  # the pipeline class in model_index.json -> module and class; its miniature has the module's name
    "StableDiffusionPipeline": "sd:StableDiffusion",
    "StableDiffusionXLPipeline": "sdxl:StableDiffusionXL",
    "StableDiffusion3Pipeline": "sd3:StableDiffusion3",
    "FluxPipeline": "flux:Flux",
    "Lumina2Pipeline": "lumina2:Lumina2",
    "SanaPipeline": "sana:Sana",
}
NAMES = tuple(place.split(":")[0] for place in REGISTRY.values())


def resolve(options: ModelOptions, default: Path, cache_dir: str | None) -> Path:
    """The local folder of a model: a folder as it is, a Hub id by download, nothing at all for the default."""
    folder = options.local_folder(default)
    return folder if folder is not None else _download(str(options.pretrained_model_name_or_path), options, cache_dir)


def table() -> str:
    """The families for a terminal: pipeline, what is trained, the sizes and encoders, and how each was tested."""
    rows = [("family", "pipeline", "denoiser", "text encoders that can learn", "tested on")]
    for pipeline_class in REGISTRY:
        family = class_of(pipeline_class)
        encoders = " ".join(family.trainable_encoders) or "-"
        rows.append((family.name, pipeline_class, family.denoiser, encoders, family.tested_on))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", "No published checkpoint was trained here yet; see Limits in the README."])


def _download(name: str, options: ModelOptions, cache_dir: str | None) -> Path:
    from diffusers import DiffusionPipeline

    try:
        return Path(
            DiffusionPipeline.download(name, revision=options.revision, variant=options.variant, cache_dir=cache_dir)
        )
    except Exception as error:  # the Hub client raises many kinds; each means that the model is not to be had
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{name} is neither a folder here nor to be had from the Hub ({reason}).") from error


def detect(folder: Path, variant: str | None = None) -> Family:
    """The family of a model folder, by the pipeline class its model_index.json names."""
    class_name = json.loads((folder / INDEX).read_text(encoding="utf-8")).get("_class_name")
    if class_name not in REGISTRY:
        known = ", ".join(sorted(REGISTRY))
        raise CheckpointError(f"{folder} is a {class_name}, which is not supported; supported: {known}.")
    return class_of(class_name)(folder, variant)


def class_of(pipeline_class: str) -> type[Family]:
    """The family of a pipeline class."""
    module, name = REGISTRY[pipeline_class].split(":")
    found: type[Family] = getattr(import_module(f"pipeline.families.{module}"), name)
    return found
