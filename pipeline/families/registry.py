"""Which families there are, and which of them a model folder belongs to."""

import json
from importlib import import_module
from pathlib import Path

from pipeline.errors import CheckpointError
from pipeline.families import single_file
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
CONFIG_FILES = ["*.json", "*.txt", "*.model"]  # of configurations, schedulers and tokenizers
NAMES = tuple(place.split(":")[0] for place in REGISTRY.values())


def find(options: ModelOptions, default: Path, cache_dir: str | None) -> Family:
    """The family of a model: a folder or file as it is, a Hub id by download, nothing at all for the default.

    Raises CheckpointError for what cannot be had or read.
    """
    place = options.local_folder(default)
    if options.file is None:
        place = place or _download(str(options.pretrained_model_name_or_path), options, cache_dir)
        return detect(place, options.variant)
    place = place or _download_config(options.single_file_config, options.file, cache_dir)
    family = class_of(_pipeline_class(place))(place, options.variant, options.file)
    single_file.require_readable(family, options.file)
    return family


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


def _download_config(name: str | None, file: Path, cache_dir: str | None) -> Path:
    """A model's configuration without its weights, from what was downloaded before or from the Hub."""
    from huggingface_hub import snapshot_download

    wanted = name or single_file.usual_config(file)
    reason = "parts of it are missing"
    for local_files_only in (True, False):
        try:
            place = Path(
                snapshot_download(
                    wanted, allow_patterns=CONFIG_FILES, cache_dir=cache_dir, local_files_only=local_files_only
                )
            )
        except Exception as error:  # the Hub client raises many kinds; each means that it is not to be had
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            continue
        if _is_whole(place):
            return place
    raise CheckpointError(
        f"{file} holds no configuration, and that of {wanted} is not to be had from the Hub ({reason}). "
        "Give the folder of a diffusers model that fits with --single_file_config; its weights may be left out."
    )


def _is_whole(place: Path) -> bool:
    """Whether every part of a downloaded model has its folder: others may have fetched a part only."""
    if not (place / INDEX).is_file():
        return False
    index = json.loads((place / INDEX).read_text(encoding="utf-8"))
    parts = [name for name, value in index.items() if isinstance(value, list) and value[0] is not None]
    return all((place / part).is_dir() for part in parts)


def detect(folder: Path, variant: str | None = None) -> Family:
    """The family of a model folder, by the pipeline class its model_index.json names."""
    return class_of(_pipeline_class(folder))(folder, variant)


def _pipeline_class(folder: Path) -> str:
    class_name = json.loads((folder / INDEX).read_text(encoding="utf-8")).get("_class_name")
    if class_name not in REGISTRY:
        known = ", ".join(sorted(REGISTRY))
        raise CheckpointError(f"{folder} is a {class_name}, which is not supported; supported: {known}.")
    return str(class_name)


def class_of(pipeline_class: str) -> type[Family]:
    """The family of a pipeline class."""
    module, name = REGISTRY[pipeline_class].split(":")
    found: type[Family] = getattr(import_module(f"pipeline.families.{module}"), name)
    return found
