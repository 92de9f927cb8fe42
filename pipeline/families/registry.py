"""Which families there are, and which of them a model folder belongs to."""

from importlib import import_module
from pathlib import Path

from pipeline.console import columns
from pipeline.errors import CheckpointError, ConfigError
from pipeline.families import reading, schedules
from pipeline.families.base import Family
from pipeline.families.checkpoint import autoencoder, fetch, single_file
from pipeline.families.checkpoint.source import ModelSource
from pipeline.families.options import ModelOptions

REGISTRY = {  # the pipeline class in model_index.json -> module and class; its miniature has the module's name
    "StableDiffusionPipeline": "sd:StableDiffusion",
    "StableDiffusionXLPipeline": "sdxl:StableDiffusionXL",
    "StableDiffusion3Pipeline": "sd3:StableDiffusion3",
    "FluxPipeline": "flux:Flux",
    "Lumina2Pipeline": "lumina2:Lumina2",
    "SanaPipeline": "sana:Sana",
}
NAMES = tuple(place.split(":")[0] for place in REGISTRY.values())


def find(options: ModelOptions, cache_dir: str | None, *, weights: bool = True) -> Family:
    """The family of the model that the options name; without `weights` none are downloaded, and none can be loaded.

    Raises CheckpointError for what cannot be had or read, ConfigError for options that the model has no use for.
    """
    source = fetch.locate(options, cache_dir, weights=weights)
    family = _class_for(source)(source, options)
    if source.file is not None:
        single_file.require_readable(source)
    if source.vae is not None:
        autoencoder.require_same_latents(source, ModelSource(source.folder))
    found = reading.clashes(family) + (schedules.clashes(source) if options.rescale_betas_zero_snr else [])
    if found:
        raise ConfigError("\n".join(found))
    return family


def table() -> str:
    """The families for a terminal: pipeline, what is trained, the sizes and encoders, and how each was tested."""
    rows = [("family", "pipeline", "denoiser", "text encoders that can learn", "for ComfyUI", "tested on")]
    for pipeline_class in REGISTRY:
        family = class_of(pipeline_class)
        encoders = " ".join(family.trainable_encoders) or "-"
        own = family.comfyui_prefixes or family.comfyui_knows_original_names
        comfyui = "its own file" if own else "as it is" if family.comfyui_reads_diffusers else "no"
        rows.append((family.name, pipeline_class, family.denoiser, encoders, comfyui, family.tested_on))
    return "\n".join(
        [*columns(rows, indent=""), "", "No published checkpoint was trained here yet; see Limits in the README."]
    )


def detect(folder: Path, variant: str | None = None) -> Family:
    """The family of a model folder. Raises CheckpointError for a pipeline that is not supported."""
    source = ModelSource(folder, variant)
    return _class_for(source)(source)


def of_layers(sizes: dict[str, tuple[int, int]]) -> str | None:
    """The name of the family that an adapter is for, from the inputs and outputs of its layers by name."""
    families = [class_of(name) for name in reversed(REGISTRY)]  # each knows of those before it
    for sized in (False, True):
        for family in families:
            if any(
                bool(signature.inputs or signature.outputs) == sized and signature.fits(sizes)
                for signature in family.key_signatures
            ):
                return family.name
    return None


def named(name: str) -> type[Family] | None:
    """The family of this name, if there is one."""
    return next((class_of(place) for place in REGISTRY if class_of(place).name == name), None)


def _class_for(source: ModelSource) -> type[Family]:
    if source.pipeline_class not in REGISTRY:
        known = ", ".join(sorted(REGISTRY))
        raise CheckpointError(
            f"{source.folder} is a {source.pipeline_class}, which is not supported; supported: {known}."
        )
    return class_of(source.pipeline_class)


def class_of(pipeline_class: str) -> type[Family]:
    """The family of a pipeline class."""
    module, name = REGISTRY[pipeline_class].split(":")
    found: type[Family] = getattr(import_module(f"pipeline.families.{module}"), name)
    return found
