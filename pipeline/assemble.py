"""The parts of a run, put together from its setting."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline import starter
from pipeline.adapter import lora, start
from pipeline.adapter.adapted import Adapted
from pipeline.adapter.texts import LiveTexts
from pipeline.conditioning import stack
from pipeline.data import cache as caches
from pipeline.data import images, pixels
from pipeline.data.loader import CachedExamples
from pipeline.data.manifest import Example, Manifest
from pipeline.data.sampler import StepSampler
from pipeline.evaluation import readers, unseen
from pipeline.evaluation.previews import Previews
from pipeline.evaluation.readers import Reader
from pipeline.evaluation.sample import Sampler, SampleSettings, Shot
from pipeline.evaluation.validation import MAX_EXAMPLES, Ruler, Subject, Validation, validation_for
from pipeline.objective.weighting import weighting_for
from pipeline.setting import Setting
from pipeline.status import Status
from pipeline.timer import PhaseTimer
from pipeline.training.loop import Task
from pipeline.training.optim import grouped, optimizer_for
from pipeline.training.state import TrainState
from pipeline.training.step import Method
from pipeline.training.watch import Watch

Texts = Callable[[str | None], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Models:
    """What learns, and where a caption's states come from: the cache, or the text encoders that learn."""

    adapted: Adapted
    texts: Texts
    live: LiveTexts | None


def load_models(setting: Setting) -> Models:
    """The frozen models with a new adapter on them."""
    run, family, engine = setting.run, setting.family, setting.engine
    encoders = family.trainable_encoders if run.adapter.train_text_encoder else ()
    pipe = family.load(family.denoiser, *(family.encoders if encoders else ()), dtype=engine.precision.dtype)
    pipe.to(engine.device)
    models = {name: getattr(pipe, name) for name in (family.denoiser, *encoders)}
    chosen = start.chosen(family, models, run.adapter)
    for name, model in models.items():
        if run.train.gradient_checkpointing:
            enable = "enable_gradient_checkpointing" if name == family.denoiser else "gradient_checkpointing_enable"
            getattr(model, enable)()
        lora.attach(model, run.adapter, chosen[name], run.train.seed)
    adapted = Adapted(models)
    if run.adapter.init_lora is not None:
        start.put(adapted, start.read(family, run.adapter.init_lora))
    if not encoders:
        # measured again and again: the captions of held-out images and probe, and the null
        kept = functools.lru_cache(maxsize=2 * MAX_EXAMPLES + 1)(
            lambda said: caches.load(setting.cache.text_path(said))
        )
        return Models(adapted, kept, None)
    live = LiveTexts(family, pipe, Adapted({name: models[name] for name in encoders}))
    return Models(adapted, live, live)


def views_of(setting: Setting) -> list[tuple[Example, images.View]]:
    """Every view the run will look at: what it trains on, and what it is measured on."""
    data, seed, resolution = setting.run.data, setting.run.train.seed, setting.plan.resolution
    views = [
        (example, view)
        for example in setting.manifest.examples
        for view in caches.views_of(example, seed, resolution, data)
    ]
    return views + [(example, caches.centre_view(resolution, data)) for example in sum(measured_on(setting), ())]


def captions_of(setting: Setting) -> list[str | None]:
    """Every caption the run will need encoded, and the null; none where the text encoders learn."""
    if setting.run.adapter.train_text_encoder:
        return []
    measured = [*(setting.held_out.examples if setting.held_out else ())]
    measured += setting.unseen.examples if setting.unseen else ()
    return [
        None,
        *(caption for example in setting.manifest.examples for caption in example.captions),
        *(example.caption for example in measured),
        *(shot.prompt for shot in shots_of(setting)),
    ]


def measured_on(setting: Setting) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The held-out examples whose loss is measured, and as many training examples to compare them with."""
    if setting.held_out is None:
        return (), ()
    held_out = setting.held_out.examples[:MAX_EXAMPLES]
    return held_out, setting.manifest.examples[: len(held_out)]


def shots_of(setting: Setting) -> tuple[Shot, ...]:
    """What the previews show: the prompts given, or else a few captions of images never trained on."""
    preview = setting.run.preview
    prompts, per_prompt = preview.validation_prompt, preview.num_validation_images
    if not prompts and setting.unseen:
        prompts, per_prompt = unseen.preview_prompts(setting.unseen), 1
    return tuple(Shot(prompt, setting.run.train.seed + number) for prompt in prompts for number in range(per_prompt))


def previews_for(setting: Setting, models: Models) -> Previews | None:
    """The previews, with only the decoder loaded beside the denoiser; None where there is nothing to show."""
    shots = shots_of(setting)
    if not shots:
        return None
    preview, device, dtype = setting.run.preview, setting.engine.device, setting.engine.precision.dtype
    pipe = setting.family.around(models.adapted.denoiser, dtype=dtype).to(device)

    def states(prompt: str | None) -> dict[str, torch.Tensor]:
        return stack([models.texts(prompt)]).to(device, dtype).row(0)

    length = setting.run.model.max_sequence_length
    settings = SampleSettings(preview.guidance, preview.num_inference_steps, setting.plan.resolution, length)
    sampler = Sampler(pipe, states, settings, uses_null=setting.family.uses_null)
    return Previews(setting.folder / "samples", sampler, models.adapted, shots)


def validation_of(setting: Setting, models: Models) -> Validation | None:
    """The held-out loss, with the base measured; None where nothing is held out."""
    held_out, probe = measured_on(setting)
    if not held_out:
        return None
    cache, data, engine, family = setting.cache, setting.run.data, setting.engine, setting.family
    resolution = setting.plan.resolution
    view = caches.centre_view(resolution, data)

    def subject(example: Example) -> Subject:
        entry = caches.load(cache.latent_path(example, view, data.alpha_background))
        size = family.size_states(pixels.geometry_of(example.width, example.height, view))
        return Subject(example.id, entry["mean"], entry["std"], example.caption, size)

    ruler = Ruler(
        family,
        family.path(setting.run.objective, resolution),
        models.texts,
        setting.run.train.train_batch_size,
        engine.device,
        engine.precision.dtype,
    )
    with models.adapted.switched_off():
        return validation_for(ruler, models.adapted, [subject(e) for e in held_out], [subject(e) for e in probe])


def state_of(setting: Setting, models: Models) -> TrainState:
    """The adapter, its optimizer and, with --use_ema, its average."""
    optim, denoiser = setting.run.optim, setting.family.denoiser
    named = grouped(models.adapted.parameters(), optim, denoiser)
    decay = optim.ema_decay if optim.use_ema else None
    return TrainState(named, optimizer_for(named, optim, denoiser), decay, setting.engine.scaler)


def examples_of(setting: Setting) -> CachedExamples:
    """The encoded training examples with their draws."""
    run = setting.run
    return CachedExamples(
        setting.manifest,
        setting.cache,
        run.data,
        seed=run.train.seed,
        resolution=setting.plan.resolution,
        offset=run.objective.noise_offset,
        size_states=setting.family.size_states,
        live_texts=run.adapter.train_text_encoder,
    )


def task_for(setting: Setting, models: Models, state: TrainState) -> Task:
    """What is trained: the model, the maths and the stream of examples."""
    run, plan = setting.run, setting.plan
    path = setting.family.path(run.objective, plan.resolution)
    return Task(
        Method(setting.family, models.adapted, models.live, path, weighting_for(run.objective, path.prediction)),
        examples_of(setting),
        StepSampler(plan.num_examples, plan.global_batch, run.train.seed),
        plan.schedule,
        state,
        run.train.gradient_accumulation_steps,
        run.optim.max_grad_norm,
        run.data.dataloader_num_workers,
    )


def measures_for(setting: Setting, pictured: Manifest) -> tuple[unseen.Judge | None, Reader | None]:
    """What measures pictures of unseen images: a CLIP model if one is named; the starter base brings its own."""
    named = setting.run.preview.clip_model_name_or_path
    if named is not None:
        reader = readers.clip_reader(named, setting.run.data.cache_dir)
        return unseen.Judge(reader.name, reader.pictures, None), reader
    if setting.family.folder != starter.BASE:
        return None, None
    from pipeline.starter import judge
    from pipeline.starter import reader as starter_reader

    return judge.as_judge({example.name for example in pictured.examples}), starter_reader.load()


def watch_for(
    setting: Setting, models: Models, state: TrainState, previews: Previews | None, status: Status, timer: PhaseTimer
) -> Watch:
    """What is looked at between two steps, and when."""
    run, plan = setting.run, setting.plan

    def told(step: int) -> None:
        status.step = step
        if step % run.train.checkpointing_steps == 0:
            status.write("training", f"step {step} of {plan.num_steps}")

    return Watch(
        state,
        models.adapted,
        validation_of(setting, models),
        previews,
        plan.num_steps,
        plan.validation_steps,
        plan.preview_steps,
        run.train.early_stopping_patience,
        told,
        timer,
    )
