"""What is evaluated: a base model, an adapter on it, and how pictures are drawn."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import run_toml, shipped
from pipeline.adapter.names import FILE
from pipeline.commands.evaluation.options import DrawOptions
from pipeline.commands.places import beside
from pipeline.commands.sample import model_of, parsed_size, require_fit, run_of, size_of
from pipeline.console import quiet_libraries
from pipeline.engine import Engine
from pipeline.errors import CheckpointError, ConfigError
from pipeline.evaluation.sample import Sampler, SampleSettings
from pipeline.families import registry
from pipeline.families.base import Family
from pipeline.families.options import ModelOptions
from pipeline.sampling.options import GuidanceOptions

NUM_INFERENCE_STEPS = 25  # where no run says how many
MAX_PROMPTS = 64  # whose embeddings are at hand


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Base, adapter and settings."""

    run: dict[str, Any]  # run.toml where the adapter came with one
    family: Family
    file: Path | None  # the adapter; None: the base alone
    settings: SampleSettings
    engine: Engine

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """All that decides what the base draws for a caption and a seed."""
        parts = ("vae", *self.family.encoders, self.family.denoiser, "scheduler")
        return {"model": self.family.source.fingerprint(parts, self.engine.precision.name), **self.settings.facts}

    def pipeline(self) -> Any:
        """The stock pipeline, as whoever uses the adapter's file loads it."""
        family, engine = self.family, self.engine
        with quiet_libraries():
            pipe = family.load(*family.encoders, family.denoiser, "vae", "scheduler", dtype=engine.precision.dtype)
        return pipe.to(engine.device)

    def sampler(self, pipe: Any, settings: SampleSettings | None = None) -> Sampler:
        """What draws with a pipeline as it is now, as the subject does or with other settings."""
        family = self.family

        @functools.lru_cache(MAX_PROMPTS)
        def encode(prompt: str | None) -> Any:
            return family.embed(pipe, prompt)

        return Sampler(pipe, getattr(pipe, family.denoiser), encode, settings or self.settings, family=type(family))


@contextlib.contextmanager
def opened(adapter: Path | None, options: DrawOptions) -> Iterator[Subject]:
    """Base and adapter for as long as they are drawn with. Raises as `subject_of` does."""
    with quiet_libraries():
        subject = subject_of(adapter, options)
        try:
            yield subject
        finally:
            subject.engine.release()


def folder_for(adapter: Path | None, options: DrawOptions, name: str) -> Path:
    """Where pictures, numbers and page of a verb go. Raises ConfigError where nothing says so."""
    if options.to is not None:
        return options.to
    if adapter is None or not adapter.is_dir():
        raise ConfigError("Give a folder for the pictures with --to.")
    return beside(adapter, name)


def subject_of(adapter: Path | None, options: DrawOptions) -> Subject:
    """Find base and adapter. Raises CheckpointError and ConfigError for what is none, or does not fit."""
    run, file = _run_and_file(adapter, options.base)
    model = model_of(run) if options.base is None else ModelOptions(pretrained_model_name_or_path=options.base)
    cache_dir = options.cache_dir or run.get("cache_dir")
    engine = Engine(options.mixed_precision or run.get("mixed_precision"))
    family = registry.find(model, cache_dir)
    if file is not None:
        require_fit(family, file)
    guidance, steps = options.guidance_scale, options.num_inference_steps
    is_starter = options.base is not None and Path(options.base).resolve() == shipped.BASE.resolve()
    usual = run_toml.read(shipped.recipe("starter")) if is_starter else run  # whose pictures others would burn
    settings = SampleSettings(
        usual.get("guidance_scale", family.default_guidance) if guidance is None else guidance,
        usual.get("num_inference_steps", NUM_INFERENCE_STEPS) if steps is None else steps,
        size_of(run, family) if options.size is None else parsed_size(options.size, family),
        guidance=GuidanceOptions.of(run),
        **model.drawing,
    )
    return Subject(run=run, family=family, file=file, settings=settings, engine=engine)


def _run_and_file(place: Path | None, base: str | None) -> tuple[dict[str, Any], Path | None]:
    """The run.toml that goes with the adapter, {} where there is none, and its file."""
    if place is None and base is None:
        raise ConfigError("Give the output folder of a run, or a model with --base.")
    if place is None:
        return {}, None
    if place.is_dir() and base is None:
        return run_of(place), place / FILE
    file = place / FILE if place.is_dir() else place
    if not (file.is_file() and file.suffix == ".safetensors"):
        raise CheckpointError(f"{place} is neither the output folder of a run nor a .safetensors file.")
    if base is None:
        raise CheckpointError(f"{place} does not say which model it is for; give that with --base.")
    return {}, file
