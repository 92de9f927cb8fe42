"""What the verbs do that needs more than one room."""

import dataclasses
import sys
import tomllib
from pathlib import Path
from typing import Any

import torch

from pipeline import starter
from pipeline.adapter import formats
from pipeline.console import quieten_libraries
from pipeline.errors import CheckpointError, ConfigError
from pipeline.evaluation.previews import INDEX, index_of, keep
from pipeline.evaluation.sample import Sampler, SampleSettings, Shot
from pipeline.families import registry
from pipeline.families.options import ModelOptions


def draw(
    folder: Path,
    prompts: list[str],
    seed: int,
    num_images: int,
    scale: float,
    guidance_scale: float | None,
    num_inference_steps: int | None,
    to: Path,
) -> None:
    """Pictures of prompts through the stock pipeline and the stock loader, kept with their index."""
    quieten_libraries()
    run = run_of(folder)
    if (to / "tuned" / INDEX).exists():
        raise ConfigError(f"{to} already holds pictures; give another folder with --to.")
    if num_images < 1:
        raise ConfigError(f"--num_images {num_images} must be at least 1.")
    options = ModelOptions(**{field.name: run.get(field.name) for field in dataclasses.fields(ModelOptions)})
    family = registry.find(options, starter.BASE, run.get("cache_dir"))
    pipe = family.load(*family.encoders, family.denoiser, "vae", "scheduler")
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    pipe.load_lora_weights(folder, weight_name=formats.FILE, adapter_name="lora")
    pipe.set_adapters("lora", scale)
    settings = SampleSettings(
        run["guidance_scale"] if guidance_scale is None else guidance_scale,
        run["num_inference_steps"] if num_inference_steps is None else num_inference_steps,
        run.get("resolution") or family.native_pixels,
        options.max_sequence_length,
    )
    sampler = Sampler(pipe, lambda prompt: family.encode_text(pipe, prompt), settings, uses_null=family.uses_null)
    shots = [Shot(prompt, seed + number) for prompt in prompts for number in range(num_images)]
    tuned = sampler.draw(shots)
    pipe.disable_lora()
    rows = index_of(shots, sampler)
    keep(to / "base", sampler.draw(shots), rows, drawn=True)
    keep(to / "tuned", tuned, rows, drawn=True)
    sys.stdout.write(f"Pictures  {to / 'base'} and {to / 'tuned'}\n")


def run_of(folder: Path) -> dict[str, Any]:
    """The run.toml of an output folder or of the run a checkpoint belongs to."""
    if not (folder / formats.FILE).is_file():
        raise CheckpointError(f"{folder} holds no {formats.FILE}; give the output folder of a finished run.")
    for candidate in (folder, folder.parent):
        if (candidate / "run.toml").is_file():
            return tomllib.loads((candidate / "run.toml").read_text(encoding="utf-8"))
    raise CheckpointError(f"{folder} has no run.toml, so its base model is unknown; load it in diffusers instead.")
