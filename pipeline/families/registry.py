"""Which families there are, and which of them a model folder belongs to."""

import json
from importlib import import_module
from pathlib import Path

from pipeline.errors import CheckpointError, ConfigError
from pipeline.families import autoencoder, fetch, single_file
from pipeline.families.base import Family
from pipeline.families.options import INDEX, ModelOptions, Place

REGISTRY = {  # the pipeline class in model_index.json -> module and class; its miniature has the module's name
    "StableDiffusionPipeline": "sd:StableDiffusion",
    "StableDiffusionXLPipeline": "sdxl:StableDiffusionXL",
    "StableDiffusion3Pipeline": "sd3:StableDiffusion3",
    "FluxPipeline": "flux:Flux",
    "Lumina2Pipeline": "lumina2:Lumina2",
    "SanaPipeline": "sana:Sana",
}
NAMES = tuple(place.split(":")[0] for place in REGISTRY.values())


def find(options: ModelOptions, default: Path, cache_dir: str | None) -> Family:
    """The family of a model: what lies here as it is, a Hub id by download, nothing at all for the default.

    Raises CheckpointError for what cannot be had or read, ConfigError for options that the model has no use for.
    """
    folder, vae = options.local_folder(default), options.local_vae
    if folder is None and options.file is None:
        folder = fetch.model(options, cache_dir)
    if folder is None:
        folder = fetch.configuration(options, cache_dir)
    if vae is None and options.pretrained_vae_model_name_or_path is not None:
        vae = fetch.autoencoder(options.pretrained_vae_model_name_or_path, cache_dir)
    place = Place(folder, options.variant, options.file, vae)
    family = class_of(_pipeline_class(folder))(place, options.max_sequence_length)
    if place.file is not None:
        single_file.require_readable(family)
    if place.vae is not None:
        autoencoder.require_same_latents(family, detect(folder))
    if options.max_sequence_length is not None and detect(folder).max_sequence_length is None:
        raise ConfigError(f"--max_sequence_length: what {family.name} reads has one length; leave it out.")
    return family


def table() -> str:
    """The families for a terminal: pipeline, what is trained, the sizes and encoders, and how each was tested."""
    rows = [("family", "pipeline", "denoiser", "text encoders that can learn", "for ComfyUI", "tested on")]
    for pipeline_class in REGISTRY:
        family = class_of(pipeline_class)
        encoders = " ".join(family.trainable_encoders) or "-"
        comfyui = "its own file" if family.comfyui_prefixes else "as it is" if family.comfyui_reads_diffusers else "-"
        rows.append((family.name, pipeline_class, family.denoiser, encoders, comfyui, family.tested_on))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", "No published checkpoint was trained here yet; see Limits in the README."])


def detect(folder: Path, variant: str | None = None) -> Family:
    """The family of a model folder, by the pipeline class its model_index.json names."""
    return class_of(_pipeline_class(folder))(Place(folder, variant))


def of_layers(sizes: dict[str, tuple[int, int]]) -> str | None:
    """The name of the family that an adapter's layers are of, whose inputs and outputs are given by their names."""
    families = [class_of(name) for name in reversed(REGISTRY)]  # each knows of those before it
    for sized in (False, True):
        for family in families:
            if any(bool(mark.inputs or mark.outputs) == sized and mark.fits(sizes) for mark in family.marks):
                return family.name
    return None


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
