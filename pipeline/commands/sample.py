"""Drawing with a trained adapter, beside the base."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pipeline import records
from pipeline.adapter.files import reader
from pipeline.adapter.files.checks import alpha_problems, not_finite
from pipeline.adapter.names import FILE
from pipeline.commands.evaluation.options import drawing_problems
from pipeline.commands.guidance import GuidanceFlags
from pipeline.commands.places import beside, unused
from pipeline.commands.wish import require_alone, wished
from pipeline.console import quiet_libraries, say, tell
from pipeline.data.options import DataOptions
from pipeline.engine import DTYPES
from pipeline.errors import CheckpointError, ConfigError, listed
from pipeline.evaluation.frontier.choice import Wish
from pipeline.evaluation.picture_sets import index_of, keep
from pipeline.evaluation.sample import Sampler, SampleRequest, SampleSettings, guidance_clashes, pictures_at_once
from pipeline.families import registry, sizes, truncation
from pipeline.families.base import Family
from pipeline.families.meta import layer_shapes
from pipeline.families.options import ModelOptions
from pipeline.geometry import Size
from pipeline.notes import grouped
from pipeline.objective.options import ObjectiveOptions
from pipeline.progress import Progress
from pipeline.sampling.options import SCALES, GuidanceOptions


def sample(
    folder: Path,
    *,
    prompts: list[str],
    seed: int,
    num_images: int,
    wish: Wish | None,
    scale: float | None,
    guidance_scale: float | None,
    guidance: GuidanceFlags,
    weaker: Path | None,
    num_inference_steps: int | None,
    size: str | None,
    to: Path | None,
) -> None:
    """Pictures of prompts through the stock pipeline and the stock loader, kept with their index.

    `weaker` is an earlier checkpoint that guidance leads away from. Raises CheckpointError for a folder without an
    adapter, ConfigError for values or guidance that mean nothing, a folder `to` that is not empty and for a wish that
    nothing was measured for.
    """
    to = to or unused(beside(folder, "drawn"))
    given = {"scale": scale, "guidance_scale": guidance_scale, "num_inference_steps": num_inference_steps}
    setting = None
    if wish is not None:
        require_alone(wish, {**given, "weaker": weaker, **dataclasses.asdict(guidance)})
        folder, setting = wished(folder, wish)
        scale, guidance_scale, num_inference_steps = setting.scale, setting.guidance_scale, setting.num_inference_steps
        tell(f"{wish}: {setting.title}")
    run = run_of(folder)
    require_sound(num_images, to, drawing_problems(seed, scale, guidance_scale, num_inference_steps))
    options = model_of(run)
    family = registry.find(options, run.get("cache_dir"))
    how = guidance.over(run) if setting is None else GuidanceOptions(**setting.guidance)
    how = checked(how, family, weaker)
    usual = run["guidance_scale"] if guidance.is_as(run) else SCALES.get(how.guidance_against, family.default_guidance)
    settings = SampleSettings(
        usual if guidance_scale is None else guidance_scale,
        run["num_inference_steps"] if num_inference_steps is None else num_inference_steps,
        size_of(run, family) if size is None else parsed_size(size, family),
        guidance=how,
        weaker=None if weaker is None else weaker.resolve().name,
        **options.drawing,
    )
    require_fit(family, *(place / FILE for place in (folder, weaker) if place is not None))
    requests = [SampleRequest(prompt, seed + number) for prompt in prompts for number in range(num_images)]
    with quiet_libraries():
        for line in grouped(truncation.cut(family, prompts)):
            tell(f"Note  {line}")
        sampler = sampler_of(folder, run, family, settings, scale=1.0 if scale is None else scale, weaker=weaker)
        of_adapter = {"scale": 1.0 if scale is None else scale}
        draw(sampler, requests, to / "adapted", "with the adapter", of_adapter)
        sampler.pipe.disable_lora()
        draw(sampler.against_base(), requests, to / "base", "the base", {})
    say(f"Pictures  {to / 'base'} and {to / 'adapted'}")


def require_sound(num_images: int, to: Path, problems: list[str]) -> None:
    """Raise ConfigError for values that mean nothing and for a folder that holds something, all of it at once."""
    if num_images < 1:
        problems = [*problems, f"--num_images {num_images} must be at least 1."]
    if to.is_file():
        problems = [*problems, f"--to {to} is a file; give a folder."]
    elif to.is_dir() and any(to.iterdir()):
        problems = [*problems, f"{to} is not empty; give another folder with --to."]
    if problems:
        raise ConfigError("\n".join(problems))


def require_fit(family: Family, *files: Path) -> None:
    """Raise CheckpointError with all that is wrong with adapters, or with them on this base, before anything is drawn.

    The stock loader takes layers of which a half is lost and numbers that are none, and draws with them.
    """
    with quiet_libraries():
        layers = layer_shapes(family)
    for path in files:  # one of zeros is drawn with: the base may be what is wanted
        file = reader.parse(path, layers)
        if problems := not_finite(file.tensors) + alpha_problems(file.tensors, file.alphas):
            raise CheckpointError(f"{path} is not fit for use:\n{listed(problems)}")


def draw(sampler: Sampler, requests: list[SampleRequest], folder: Path, title: str, facts: Mapping[str, float]) -> None:
    """Draw batch by batch, saying how far that is, and keep the pictures with their index and these facts."""
    tell(f"Drawing {len(requests)} picture{'s' * (len(requests) != 1)}: {title}")
    at_once = pictures_at_once(sampler.settings.size)
    batches = [requests[first : first + at_once] for first in range(0, len(requests), at_once)]
    pictures: list[Image.Image] = []
    with contextlib.closing(Progress(len(batches), "batch")) as progress:
        for done, batch in enumerate(batches, start=1):
            pictures += sampler.draw(batch)
            progress.update(done)
    keep(folder, pictures, [{**row, **facts} for row in index_of(requests, sampler)], drawn=True)


def sampler_of(
    folder: Path, run: dict[str, Any], family: Family, settings: SampleSettings, *, scale: float, weaker: Path | None
) -> Sampler:
    """What draws with a run's adapter at a scale, in the precision of its previews."""
    dtype = DTYPES[run.get("mixed_precision", "no")]
    pipe = family.load(*family.encoders, family.denoiser, "vae", "scheduler", dtype=dtype)
    pipe.to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
    pipe.load_lora_weights(folder, weight_name=FILE, adapter_name="lora")
    denoiser, switch = getattr(pipe, family.denoiser), None
    if weaker is not None:
        pipe.load_lora_weights(weaker, weight_name=FILE, adapter_name="weaker")
        switch = functools.partial(switched, denoiser, scale)
    set_scale(pipe, scale)
    encode = functools.partial(family.embed, pipe)
    return Sampler(pipe, denoiser, encode, settings, family=type(family), weaker=switch)


def set_scale(pipe: Any, scale: float) -> None:
    """Scale the adapter of a stock pipeline; at 0 it is off: of DoRA the magnitudes would stay."""
    if scale:
        pipe.enable_lora()
        pipe.set_adapters("lora", scale)
    else:
        pipe.disable_lora()


def checked(guidance: GuidanceOptions, family: Family, weaker: Path | None) -> GuidanceOptions:
    """Guidance that makes sense. Raises ConfigError for what does not, CheckpointError where there is no checkpoint."""
    problems = guidance.problems()
    if weaker is not None and guidance.guidance_against != "base":
        problems.append("--weaker stands for the base; add --guidance_against base.")
    is_flow = family.path(ObjectiveOptions()).prediction == "flow"
    problems = problems or guidance_clashes(guidance, family, is_flow=is_flow)
    if problems:
        raise ConfigError("\n".join(problems))
    if weaker is not None and not (weaker / FILE).is_file():
        raise CheckpointError(f"--weaker {weaker} holds no {FILE}; give a checkpoint of the run.")
    return guidance


@contextlib.contextmanager
def switched(denoiser: Any, scale: float) -> Iterator[None]:
    """The weaker checkpoint in place of the adapter for a while."""
    denoiser.set_adapters("weaker", scale)
    try:
        yield
    finally:
        denoiser.set_adapters("lora", scale)


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
    above = place.resolve().parent
    return above if (above / "run.toml").is_file() and not (place / "run.toml").is_file() else place


def run_of(folder: Path) -> dict[str, Any]:
    """The run.toml of an output folder or of the run a checkpoint belongs to; CheckpointError where none is whole."""
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file; give the output folder of its run, or see evaluate --base.")
    if not (folder / FILE).is_file():
        raise CheckpointError(f"{folder} holds no {FILE}; give the output folder of a finished run.")
    file = folder_of_run(folder) / "run.toml"
    if file.is_file():
        return records.table_in(file)
    raise CheckpointError(f"{folder} has no run.toml, so its base model is unknown; load it in diffusers instead.")
