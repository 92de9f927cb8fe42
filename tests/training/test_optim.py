import pytest
import torch
from diffusers.optimization import get_scheduler

from pipeline.training.optim import Schedule, optimizer_for, schedule_for
from pipeline.training.options import OptimOptions

pytestmark = pytest.mark.reference


@pytest.mark.parametrize("kind", ["constant", "constant_with_warmup", "linear", "cosine", "polynomial"])
def test_after_warm_up_the_shapes_are_diffusers(kind):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    theirs = get_scheduler(kind, optimizer, num_warmup_steps=0 if kind == "constant" else 4, num_training_steps=20)
    ours = Schedule(kind, 0.3, 0 if kind == "constant" else 4, 20)
    for step in range(20):
        if step >= ours.warmup_steps:
            assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_warm_up_climbs_from_above_zero_to_the_peak():
    rates = [Schedule("linear", 1.0, 3, 20)(step) for step in range(4)]
    assert rates == [0.25, 0.5, 0.75, 1.0]


def test_warm_up_is_chosen_from_the_length_of_the_run():
    assert schedule_for(OptimOptions(), 300, 8).warmup_steps == 15
    assert schedule_for(OptimOptions(), 100_000, 8).warmup_steps == 100
    assert schedule_for(OptimOptions(lr_scheduler="constant"), 300, 8).warmup_steps == 0
    assert schedule_for(OptimOptions(lr_warmup_steps=7), 300, 8).warmup_steps == 7


def test_scale_lr_multiplies_by_the_global_batch():
    assert schedule_for(OptimOptions(learning_rate=1e-4, scale_lr=True), 10, 12).peak == pytest.approx(1.2e-3)


def test_the_optimizer_has_the_values_given():
    options = OptimOptions(adam_beta1=0.8, adam_beta2=0.95, adam_weight_decay=0.1, adam_epsilon=1e-6)
    group = optimizer_for([torch.nn.Parameter(torch.zeros(1))], options).param_groups[0]
    assert (group["betas"], group["weight_decay"], group["eps"]) == ((0.8, 0.95), 0.1, 1e-6)
