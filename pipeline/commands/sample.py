"""Drawing with a trained adapter, beside the base."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import torch

from pipeline.adapter.names import FILE
from pipeline.console import quiet_libraries, say
from pipeline.data.options import DataOptions
from pipeline.engine import DTYPES
from pipeline.errors import CheckpointError, ConfigError
from pipeline.evaluation.picture_sets import INDEX, index_of, keep
from pipeline.evaluation.sample import Sampler, SampleRequest, SampleSettings
from pipeline.families import registry, sizes
from pipeline.families.base import Family
from pipeline.families.options import ModelOptions
from pipeline.geometry import Size


def sample(
    folder: Path,
    *,
    prompts: list[str],
    seed: int,
    num_images: int,
    scale: float,
    guidance_scale: float | None,
    num_inference_steps: int | None,
    size: str | None,
    to: Path,
) -> None:
    """Pictures of prompts through the stock pipeline and the stock loader, kept with their index.

    Raises CheckpointError for a folder without an adapter, ConfigError for one that holds pictures already.
    """
    run = run_of(folder)
    if (to / "adapted" / INDEX).exists():
        raise ConfigError(f"{to} already holds pictures; give another folder with --to.")
    if num_images < 1:
        raise ConfigError(f"--num_images {num_images} must be at least 1.")
    options = model_of(run)
    family = registry.find(options, run.get("cache_dir"))
    settings = SampleSettings(
        run["guidance_scale"] if guidance_scale is None else guidance_scale,
        run["num_inference_steps"] if num_inference_steps is None else num_inference_steps,
        size_of(run, family) if size is None else parsed_size(size, family),
        **options.reading,
    )
    requests = [SampleRequest(prompt, seed + number) for prompt in prompts for number in range(num_images)]
    with quiet_libraries():
        dtype = DTYPES[run.get("mixed_precision", "no")]  # that of the previews
        pipe = family.load(*family.encoders, family.denoiser, "vae", "scheduler", dtype=dtype)
        pipe.to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
        pipe.load_lora_weights(folder, weight_name=FILE, adapter_name="lora")
        pipe.set_adapters("lora", scale)
        sampler = Sampler(
            pipe,
            getattr(pipe, family.denoiser),
            lambda prompt: family.embed(pipe, prompt),
            settings,
            supports_cfg=family.supports_cfg,
        )
        adapted = sampler.draw(requests)
        pipe.disable_lora()
        base = sampler.draw(requests)
    rows = index_of(requests, sampler)
    keep(to / "base", base, rows, drawn=True)
    keep(to / "adapted", adapted, rows, drawn=True)
    say(f"Pictures  {to / 'base'} and {to / 'adapted'}")


def parsed_size(text: str, family: Family) -> Size:
    """A size as --size gives it. Raises ConfigError for none, and for one that the model cannot take."""
    size = Size.parsed(text)
    if size is None:
        raise ConfigError(f"--size {text} is no width x height, as in 832x1216.")
    sizes.require_size(family, size, "size")
    return size


def size_of(run: dict[str, Any], family: Family) -> Size:
    """The size of a run's previews."""
    asked = Size.parsed(run.get("validation_size", ""))
    sides = DataOptions(resolution=run.get("resolution")).sides
    return asked or (Size.square(sides[-1]) if sides else family.native_size)


def model_of(run: dict[str, Any]) -> ModelOptions:
    """The options of the model in a run.toml; those it does not name are of a version without them, or not given."""
    names = [field.name for field in dataclasses.fields(ModelOptions) if field.name in run]
    return ModelOptions(**{name: run[name] for name in names})


def folder_of_run(place: Path) -> Path:
    """The output folder that an output folder or one of its checkpoints belongs to."""
    return place if (place / "run.toml").is_file() else place.resolve().parent


def run_of(folder: Path) -> dict[str, Any]:
    """The run.toml of an output folder or of the run a checkpoint belongs to; CheckpointError where there is none."""
    if not (folder / FILE).is_file():
        raise CheckpointError(f"{folder} holds no {FILE}; give the output folder of a finished run.")
    file = folder_of_run(folder) / "run.toml"
    if file.is_file():
        return tomllib.loads(file.read_text(encoding="utf-8"))
    raise CheckpointError(f"{folder} has no run.toml, so its base model is unknown; load it in diffusers instead.")
