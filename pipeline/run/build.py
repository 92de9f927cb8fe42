"""The parts of a run, built from its context."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils.checkpoint

from pipeline.adapter import dropout, init_from, lora
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.compiled import compile_blocks
from pipeline.adapter.denoiser import AdaptedDenoiser
from pipeline.adapter.quantized import quantize
from pipeline.adapter.streamed import BlockStream
from pipeline.adapter.text_encoders import LivePrompts
from pipeline.conditioning import Embeddings, stack
from pipeline.data import pixels
from pipeline.data.loader import CachedExamples
from pipeline.data.manifest import Example
from pipeline.data.views import centre_view
from pipeline.evaluation.previews import Previews
from pipeline.evaluation.sample import Sampler, SampleSettings, pictures_at_once
from pipeline.evaluation.unguided import Unguided
from pipeline.evaluation.validation import (
    MAX_EXAMPLES,
    ClassValidation,
    LossEvaluator,
    Validation,
    ValidationExample,
    build_class_validation,
    build_validation,
)
from pipeline.families import alignment, fit
from pipeline.objective import building
from pipeline.objective.guided import guided_target
from pipeline.objective.losses import counted
from pipeline.objective.objective import Objective
from pipeline.remembered import cache_folder
from pipeline.run.context import RunContext
from pipeline.run.encode import preview_requests
from pipeline.run.measured import measured_examples
from pipeline.training.graphs import build_graphs
from pipeline.training.intervals import Intervals
from pipeline.training.loop import Task
from pipeline.training.optim import build_optimizer, grouped
from pipeline.training.state import TrainState
from pipeline.training.step import Method


@dataclass(frozen=True)
class Models:
    """What learns, and where prompt embeddings come from: the cache, or the text encoders that learn."""

    denoiser: AdaptedDenoiser
    prompts: Callable[[str | None], Embeddings]
    live: LivePrompts | None

    @property
    def adapted(self) -> AdaptedModels:
        """The models that carry the adapter."""
        return self.denoiser.adapted


def load_models(context: RunContext) -> Models:
    """The frozen models with a new adapter on them. Raises CheckpointError for weights that are not finite."""
    run, family, engine = context.run, context.family, context.engine
    encoders = family.trainable_encoders if run.adapter.train_text_encoder else ()
    pipe = family.load(family.denoiser, *(family.encoders if encoders else ()), dtype=engine.precision.dtype)
    models = {name: getattr(pipe, name) for name in (family.denoiser, *encoders)}
    fit.require_there(models, family.source.folder)
    if run.train.base_quantization is not None:
        fit.require_finite(models, family.source.folder)  # which few bits would hide
        quantize(models[family.denoiser], run.train.base_quantization, engine.device)
    to_device(pipe, engine.device, left=family.denoiser if run.train.offload_base else None)
    fit.require_finite(models, family.source.folder)
    alignment.align(models.values())
    chosen = init_from.chosen(family, models, run.adapter)
    for name, model in models.items():
        if run.train.gradient_checkpointing:
            checkpoint(model)
        lora.attach(model, run.adapter, chosen[name], run.train.seed)
    if run.train.offload_base:
        BlockStream(models[family.denoiser], engine.device)
    if run.train.compile:
        kernels = cache_folder(run.data.cache_dir) / "kernels"
        deterministic = run.train.deterministic
        engine.at_release(compile_blocks(models[family.denoiser], kernels, deterministic=deterministic))
    adapted = AdaptedModels(models)
    if run.adapter.init_lora is not None:
        init_from.put(adapted, init_from.read(family, run.adapter.init_lora))
    denoiser = AdaptedDenoiser(family, adapted, engine.precision.dtype)
    if not encoders:
        # measured again and again: the captions of held-out and training examples, and none
        kept = functools.lru_cache(maxsize=2 * MAX_EXAMPLES + 1)(context.cache.text_of)
        return Models(denoiser, kept, None)
    live = LivePrompts(family, pipe, AdaptedModels({name: models[name] for name in encoders}))
    return Models(denoiser, live, live)


def to_device(pipe: Any, device: torch.device, *, left: str | None) -> None:
    """Move the models of a pipeline, but for one that is left where it is."""
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module) and name != left:
            part.to(device)


def checkpoint(model: Any) -> None:
    """Let a model recompute its activations. Nothing in it draws from a generator, so none is put back for that."""
    if hasattr(model, "enable_gradient_checkpointing"):  # of diffusers
        recomputed = functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False, preserve_rng_state=False)
        model.enable_gradient_checkpointing(recomputed)
    else:
        contexts = functools.partial(dropout.recomputed_alike, model)
        model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})


def build_previews(context: RunContext, models: Models) -> Previews | None:
    """The previews, with only the decoder loaded beside the denoiser; None where there is nothing to show."""
    requests = preview_requests(context)
    if not requests:
        return None
    preview, device, dtype = context.run.preview, context.engine.device, context.engine.precision.dtype
    family, denoiser = context.family, models.adapted.denoiser
    pipe = family.around(denoiser, dtype=dtype)
    to_device(pipe, device, left=family.denoiser)  # which is where it shall be
    size, told = context.plan.preview_size, context.run.model.drawing
    settings = SampleSettings(preview.guidance, preview.num_inference_steps, size, guidance=preview.guiding, **told)
    embed = functools.partial(embedded, context, models)
    sampler = Sampler(pipe, denoiser, embed, settings, family=type(family))
    return Previews(context.folder / "samples", sampler, models.adapted, requests)


def embedded(context: RunContext, models: Models, prompt: str | None) -> Embeddings:
    """The embeddings of a prompt as the denoiser takes them: on its device, in its precision."""
    return stack([models.prompts(prompt)]).to(context.engine.device, context.engine.precision.dtype).row(0)


def build_loss_validation(context: RunContext, models: Models) -> Validation | None:
    """The held-out loss, with the base measured; None where nothing is held out."""
    measured = measured_examples(context.data, context.plan.seen)
    held_out, train_subset = (as_measured(context, examples) for examples in measured)
    if not held_out:
        return None
    evaluator, captioned = loss_evaluator(context, models), unguided(context, models)
    return build_validation(evaluator, models.denoiser, held_out, train_subset, captioned)


def build_loss_of_class(context: RunContext, models: Models) -> ClassValidation | None:
    """The loss on pictures of the class, with the base measured; None where there are none to measure."""
    examples = as_measured(context, context.data.class_measured)
    if not examples:
        return None
    evaluator, captioned = loss_evaluator(context, models), unguided(context, models)
    return build_class_validation(evaluator, models.denoiser, examples, captioned)


def unguided(context: RunContext, models: Models) -> Unguided | None:
    """What predicts for captions where guidance is learnt, with that taken out; None where none is."""
    options = context.run.objective
    target = guided_target(options)
    if target is None:
        return None
    return Unguided(models.denoiser, target, options.guided_target_scale, context.path, embedded(context, models, None))


def as_measured(context: RunContext, examples: Iterable[Example]) -> list[ValidationExample]:
    """Examples as they are measured."""
    found = []
    for example in examples:
        view = centre_view(example, context.plan.possible.measured(example))
        entry = context.cache.latents_of(example, view)
        size = context.family.size_states(pixels.geometry_of(example.size, view))
        mask = context.cache.mask_of(example, view) if context.run.data.has_masks else None
        counts = None if mask is None else counted(mask[None], context.run.objective.unmasked_weight)[0]
        found.append(ValidationExample(example.id, entry["mean"], entry["std"], example.caption, size, counts))
    return found


def loss_evaluator(context: RunContext, models: Models) -> LossEvaluator:
    """How losses are measured, equal for all that a run measures, in batches at least as large as those of previews."""
    engine, family = context.engine, context.family
    return LossEvaluator(
        path=context.path,
        prompts=models.prompts,
        ragged=family.ragged,
        batch_size=max(context.run.train.batch_size, pictures_at_once(context.plan.size)),
        device=engine.device,
        dtype=engine.precision.dtype,
    )


def build_state(context: RunContext, models: Models) -> TrainState:
    """The adapter, its optimizer and, with --use_ema, its average."""
    optim, denoiser = context.run.optim, context.family.denoiser
    named = grouped(models.adapted.parameters(), optim, denoiser)
    decay = optim.ema_decay if optim.use_ema else None
    return TrainState(named, build_optimizer(named, optim, denoiser), decay, context.engine.scaler)


def build_examples(context: RunContext) -> CachedExamples:
    """The encoded training examples with their random numbers."""
    run = context.run
    return CachedExamples(
        context.data.shown,
        context.cache,
        run.data,
        seed=run.train.seed,
        noise=run.objective,
        size_states=context.family.size_states,
        ragged=context.family.ragged,
        live_prompts=run.adapter.train_text_encoder,
        text_parts=context.family.text_parts if run.data.encoder_dropout else {},
        prior_loss_weight=run.objective.prior_loss_weight,
        group_weights=context.data.balance.weights if context.data.balance is not None else None,
        num_strata=context.plan.global_batch if run.objective.stratified_timesteps else 1,
        wrong_captions=run.objective.reads_wrong_captions,
    )


def build_objective(context: RunContext) -> Objective:
    """What is minimised."""
    family = context.family
    num_tokens = family.num_tokens(torch.empty(1, *family.latent_shape(context.plan.size), device="meta"))
    return building.build_objective(context.run.objective, context.path, num_tokens)


def build_method(context: RunContext, models: Models) -> Method:
    """What turns a batch into losses."""
    options = context.run.objective
    return Method(
        models.denoiser,
        build_objective(context),
        models.live,
        tuple(dropout.installed(models.adapted.denoiser)),
        preserved=embedded(context, models, options.preservation_prompt) if options.preservation_weight else None,
        unconditional=embedded(context, models, None) if options.leads_from_unconditional else None,
        guided_scale=options.guided_target_scale,
    )


def build_task(context: RunContext, models: Models, state: TrainState) -> Task:
    """What is trained: the method, the stream of examples, and when something is due."""
    run, plan = context.run, context.plan
    method = build_method(context, models)
    weights, size = list(state.named.values()), plan.global_batch
    return Task(
        method=method,
        adapted=models.adapted,
        examples=build_examples(context),
        sampler=plan.sampler,
        schedule=plan.schedule,
        state=state,
        intervals=Intervals(
            plan.num_steps,
            checkpoint=run.train.checkpointing_steps,
            validation=plan.validation_steps,
            preview=plan.preview_steps,
            validates=context.data.held_out is not None or bool(context.data.class_measured),
        ),
        num_micro_steps=run.train.gradient_accumulation_steps,
        max_grad_norm=run.optim.max_grad_norm,
        patience=run.train.early_stopping_patience,
        num_workers=run.data.dataloader_num_workers,
        graphs=build_graphs(method.losses, weights, size, state.optimizer) if plan.speed.graphs else None,
    )
