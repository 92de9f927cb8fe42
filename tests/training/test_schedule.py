import pytest
import torch
from diffusers.optimization import get_scheduler

from pipeline.training.options import OptimOptions
from pipeline.training.schedule import Schedule, build_schedule

pytestmark = pytest.mark.reference


@pytest.mark.parametrize(
    ("kind", "cycles", "power"),
    [
        ("constant", 1, 1.0),
        ("constant_with_warmup", 1, 1.0),
        ("linear", 1, 1.0),
        ("cosine", 1, 1.0),
        ("cosine_with_restarts", 3, 1.0),
        ("polynomial", 1, 1.0),
        ("polynomial", 1, 2.5),
    ],
)
def test_after_warm_up_the_shapes_are_diffusers(kind, cycles, power):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    warmup = 0 if kind == "constant" else 4
    theirs = get_scheduler(
        kind, optimizer, num_warmup_steps=warmup, num_training_steps=20, num_cycles=cycles, power=power
    )
    ours = Schedule(kind, 0.3, warmup, 20, cycles, power)
    for step in range(20):
        if step >= ours.warmup_steps:
            assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_warm_up_climbs_from_above_zero_to_the_peak():
    rates = [Schedule("linear", 1.0, 3, 20)(step) for step in range(4)]
    assert rates == [0.25, 0.5, 0.75, 1.0]


def test_warm_up_is_chosen_from_the_length_of_the_run():
    assert build_schedule(OptimOptions(), 300, 8).warmup_steps == 15
    assert build_schedule(OptimOptions(), 100_000, 8).warmup_steps == 100
    assert build_schedule(OptimOptions(lr_scheduler="constant"), 300, 8).warmup_steps == 0
    assert build_schedule(OptimOptions(lr_warmup_steps=7), 300, 8).warmup_steps == 7


def test_scale_lr_multiplies_by_the_global_batch():
    assert build_schedule(OptimOptions(learning_rate=1e-4, scale_lr=True), 10, 12).peak == pytest.approx(1.2e-3)


@pytest.mark.parametrize(
    ("optimizer", "peak", "kind"),
    [("adamw", 1e-4, "cosine"), ("prodigy", 1.0, "cosine"), ("adamw_schedule_free", 3e-4, "constant_with_warmup")],
)
def test_rate_and_shape_follow_the_optimizer_where_not_given(optimizer, peak, kind):
    schedule = build_schedule(OptimOptions(optimizer=optimizer), 100, 4)
    assert (schedule.peak, schedule.kind) == (peak, kind)
