"""The pictures of a class that the base draws before training: kept by all that decides them, so drawn once."""

import dataclasses
from pathlib import Path
from typing import Any

from pipeline.adapter.streamed import BlockStream
from pipeline.console import tell
from pipeline.data.class_images import num_to_draw, read_drawn
from pipeline.evaluation.resumable import draw_missing
from pipeline.evaluation.sample import Sampler, SampleRequest, SampleSettings, pictures_at_once
from pipeline.hashing import digest
from pipeline.remembered import cache_folder
from pipeline.run.build import to_device
from pipeline.run.context import RunContext, planned, with_class

VERSION = "1"  # raise it when the same request makes other pictures
FOLDER = "class"  # in the cache


def with_drawn_class(context: RunContext) -> RunContext:
    """The run with the pictures of its class, drawn where they are not there yet; the same run where it needs none."""
    data = context.data
    number = num_to_draw(context.run.data, data.class_given)
    if not number:
        return context
    settings = settings_of(context)
    folder = folder_of(context, settings)
    context.engine.together(lambda: draw(context, settings, folder, number))
    drawn = read_drawn(context.run.data, folder, number)
    data = with_class(context.run, context.family, data, drawn)
    run, engine, family, path = context.run, context.engine, context.family, context.path
    found = planned(run, engine, family, path, data=data, folder=context.folder)
    return dataclasses.replace(found, plan=dataclasses.replace(found.plan, notes=context.plan.notes))


def settings_of(context: RunContext) -> SampleSettings:
    """As previews are drawn, at the size of training; where guidance is learnt, with that of the pipeline itself."""
    preview, model = context.run.preview, context.run.model
    size, learns = context.plan.possible.square, context.run.objective.guided_target is not None
    guidance = context.family.default_guidance if learns else preview.guidance
    return SampleSettings(guidance, preview.num_inference_steps, size, **model.drawing)


def folder_of(context: RunContext, settings: SampleSettings) -> Path:
    """Where these pictures lie: under a hash of the model, the prompt, and how they are sampled."""
    source, precision = context.family.source, context.engine.precision.name
    told = {name: value for name, value in context.run.model.drawing.items() if name != "max_sequence_length"}
    parts = ("vae", *context.family.encoders, context.family.denoiser, "scheduler")
    facts: list[Any] = [VERSION, source.fingerprint(parts, precision), context.run.data.class_prompt, settings]
    facts += [told] if told else []
    name = digest("\n".join(map(repr, facts)).encode())[:32]
    return cache_folder(context.run.data.cache_dir) / FOLDER / name


def draw(context: RunContext, settings: SampleSettings, folder: Path, number: int) -> None:
    """Draw this process's share of what is not there yet, a picture for each seed from 0 on.

    Batches are always full, so that a larger number of pictures begins with these.
    """
    prompt, at_once = context.run.data.class_prompt or "", pictures_at_once(settings.size)
    requests = [SampleRequest(prompt, seed) for seed in range(-(-number // at_once) * at_once)]
    paths = [path_of(folder, request.seed) if request.seed < number else None for request in requests]
    if context.engine.is_main and not all(path.is_file() for path in paths if path is not None):
        tell(f"Drawing images of the class: {context.run.data.class_prompt!r}, {number} in all")
    draw_missing(requests, paths, lambda: sampler_of(context, settings), settings.size, context.engine)


def path_of(folder: Path, seed: int) -> Path:
    """The picture of a seed."""
    return folder / f"{seed:06d}.png"


def sampler_of(context: RunContext, settings: SampleSettings) -> Sampler:
    """The base as it is before anything is trained; its text encoders are gone again once they have read the prompt.

    Where the device is spared, its blocks come from the host: as a whole they may not fit.
    """
    family, engine = context.family, context.engine
    dtype, device = engine.precision.dtype, engine.device
    encoders = family.load_encoders(dtype).to(device)
    known = {prompt: family.embed(encoders, prompt) for prompt in (context.run.data.class_prompt, None)}
    del encoders
    denoiser = getattr(family.load(family.denoiser, dtype=dtype), family.denoiser)
    pipe, is_spared = family.around(denoiser, dtype=dtype), context.run.train.spares_base
    to_device(pipe, device, left=family.denoiser if is_spared else None)
    if is_spared:
        BlockStream(denoiser, device)
    return Sampler(pipe, denoiser, known.__getitem__, settings, family=type(family))
