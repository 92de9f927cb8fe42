"""What a step is said to take, against what torch's own allocator says of a real one."""

import gc

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from pipeline.adapter import init_from, lora
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.denoiser import AdaptedDenoiser
from pipeline.conditioning import stack
from pipeline.config import Run
from pipeline.families.meta import on_meta
from pipeline.geometry import Size, whole
from pipeline.objective.building import build_objective
from pipeline.run.cost.step_on_meta import MicroBatch, StepShape, count_step
from tests.families.asked import PROMPT, SIDE, conditioning_of, denoiser_of

pytestmark = pytest.mark.contract


def test_the_shapes_of_embeddings_are_those_that_captions_get(family):
    found = {name: tuple(value.shape[1:]) for name, value in conditioning_of(family, PROMPT).tensors.items()}
    sizes = family.size_states(whole(Size.square(SIDE)))
    assert found == {**family.text_shapes, **{name: tuple(value.shape) for name, value in sizes.items()}}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_the_bytes_of_a_step_are_counted_within_15_percent(family, checkpointing):
    """Of the whole: weights and what a step holds. By itself that is within 15 % too, but for what mkldnn lays out anew
    in models as small as these."""
    run, shape = Run(), StepShape(Size.square(SIDE), 4, torch.float32, "cpu", checkpointing)
    path, chosen = family.path(run.objective), init_from.chosen(family, on_meta(family, ()), run.adapter)
    counted = count_step(run, family, path, chosen, shape)
    model = denoiser_of(family)
    if checkpointing:
        model.enable_gradient_checkpointing()
    lora.attach(model, run.adapter, chosen[family.denoiser], 0)
    model.train()
    weights = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    measured = most_bytes_of(real_step(run, family, path, model, shape), model)
    assert counted.frozen_bytes + 4 * counted.num_trainable == weights
    assert weights + counted.step_bytes == pytest.approx(weights + measured, rel=0.15)
    assert counted.step_bytes == pytest.approx(measured, rel=0.15)


def real_step(run, family, path, model, shape):
    """Forward and backward pass with numbers, as count_step counts them without."""
    size = (shape.batch_size, *family.latent_shape(shape.size))
    u = torch.rand(shape.batch_size, dtype=torch.float64)
    batch = MicroBatch(torch.rand(size), torch.rand(size), None, u, None, torch.ones(shape.batch_size))
    row = {
        name: torch.ones(size, dtype=torch.int64) if "mask" in name else torch.rand(size)
        for name, size in family.text_shapes.items()
    } | family.size_states(whole(shape.size))
    conditioning = stack([row] * shape.batch_size)
    objective = build_objective(run.objective, path, family.num_tokens(batch.latents))
    denoiser = AdaptedDenoiser(family, AdaptedModels({family.denoiser: model}), torch.float32)
    return lambda: (objective(denoiser, batch, conditioning).sum() / shape.batch_size).backward()


def most_bytes_of(step, model) -> int:
    """The most bytes that are allocated at once during a step, the second of its kind."""
    step()
    for value in model.parameters():
        value.grad = None
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most
