"""Every optimizer by name: it moves, and saved and loaded it goes on bit for bit."""

import importlib.util
import json

import pytest
import torch
from torch import nn

from pipeline.training.optim import BUILDERS, adapted_rate, build_optimizer
from pipeline.training.options import OptimOptions
from pipeline.training.state import TrainState

pytestmark = pytest.mark.unit
OPTIMIZERS = sorted(BUILDERS)


def new_state(name: str) -> TrainState:
    generator = torch.Generator().manual_seed(0)
    named = {
        "a": nn.Parameter(torch.randn(4, 1280, generator=generator)),  # large enough for eight bits
        "b": nn.Parameter(torch.zeros(64, 4)),
    }
    return TrainState(named, build_optimizer(named, OptimOptions(optimizer=name)))


def take_steps(state: TrainState, first: int, last: int) -> None:
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for value in state.named.values():
            value.grad = torch.randn(value.shape, generator=generator) + 0.1 * value.detach()
        state.optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_saved_and_loaded_it_goes_on_bit_for_bit(name):
    whole, first = new_state(name), new_state(name)
    before = {key: value.detach().clone() for key, value in whole.named.items()}
    take_steps(whole, 0, 7)
    take_steps(first, 0, 4)
    first.copy_of_current()  # looking at the weights on the way changes nothing
    tensors = {key: value.clone() for key, value in first.tensors().items()}
    facts = json.loads(json.dumps(first.facts()))
    second = new_state(name)
    second.load(tensors, facts)
    take_steps(second, 4, 7)
    for key in whole.named:
        assert torch.equal(whole.named[key], second.named[key])
        assert torch.equal(whole.copy_of_current()[key], second.copy_of_current()[key])
        assert not torch.equal(whole.named[key], before[key])


def test_schedule_free_hands_over_its_average():
    state = new_state("adamw_schedule_free")
    take_steps(state, 0, 5)
    live = {key: value.detach().clone() for key, value in state.named.items()}
    assert not torch.equal(state.copy_of_current()["a"], live["a"])
    with state.showing_current():
        assert torch.equal(state.named["a"], state.copy_of_current()["a"])
    assert torch.equal(state.named["a"], live["a"])


def test_prodigy_tells_the_rate_it_found():
    state = new_state("prodigy")
    for _ in range(100):  # downhill all the time: the rate can only have been too small
        for value in state.named.values():
            value.grad = torch.ones_like(value)
        state.optimizer.step()
    assert adapted_rate(state.optimizer) > 1e-5
    assert adapted_rate(new_state("adamw").optimizer) is None


def test_adafactor_moves_weights_that_start_at_zero():
    """By the learning rate, where its own scaling by the weights would make a thousandth of it."""
    b = nn.Parameter(torch.zeros(8, 4))
    b.grad = torch.ones_like(b)
    build_optimizer({"b": b}, OptimOptions(optimizer="adafactor", learning_rate=1e-2)).step()
    assert torch.allclose(b.detach(), torch.full_like(b, -1e-2), rtol=1e-3)


def test_the_optimizer_has_the_values_given():
    options = OptimOptions(adam_beta1=0.8, adam_beta2=0.95, adam_weight_decay=0.1, adam_epsilon=1e-6)
    group = build_optimizer({"a": nn.Parameter(torch.zeros(1))}, options).param_groups[0]
    assert (group["betas"], group["weight_decay"], group["eps"]) == ((0.8, 0.95), 0.1, 1e-6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optimizer": "prodigy", "learning_rate": 1e-4}, "finds the rate itself"),
        ({"optimizer": "prodigy", "scale_lr": True}, "finds the rate itself"),
        ({"optimizer": "prodigy", "use_8bit_adam": True}, "two optimizers"),
        ({"optimizer": "adafactor", "adam_beta1": 0.8}, "leave them out"),
        ({"optimizer": "adamw_schedule_free", "lr_scheduler": "cosine"}, "needs no schedule"),
        ({"optimizer": "adamw_schedule_free", "use_ema": True}, "averages the weights itself"),
        ({"lr_num_cycles": 3}, "cosine_with_restarts"),
        ({"lr_power": 2.0}, "polynomial"),
    ],
)
def test_what_does_not_go_together_is_refused(given, said):
    problems = OptimOptions(**given).problems()
    assert len(problems) == 1
    assert said in problems[0]


def test_a_missing_package_is_named_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert OptimOptions(optimizer="prodigy").problems() == [
        "--optimizer prodigy needs a package that is missing: pip install prodigyopt."
    ]
    assert OptimOptions().problems() == []
