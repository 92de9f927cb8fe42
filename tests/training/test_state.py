"""The average of the weights and the best of them."""

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from pipeline.training.state import TrainState, ema_decay_at

pytestmark = pytest.mark.unit


def state_with(value: float, ema_decay: float | None = None) -> TrainState:
    named = {"w": nn.Parameter(torch.full((3,), value))}
    return TrainState(named, torch.optim.AdamW(named.values()), ema_decay)


@pytest.mark.reference
def test_the_average_is_diffusers_average():
    state = state_with(0.0, ema_decay=0.9)
    theirs = EMAModel([state.named["w"]], decay=0.9)
    for step in range(40):
        state.put({"w": torch.full((3,), float(step * step % 7))})
        state.update_average(step)
        theirs.step([state.named["w"]])
        assert torch.allclose(state.average["w"], theirs.shadow_params[0], rtol=1e-6)


def test_decay_values():
    assert [round(ema_decay_at(step, 0.9999), 5) for step in (0, 1, 10, 100, 1000)] == [
        0.0, 0.18182, 0.55, 0.91818, 0.99109,
    ]  # fmt: skip
    assert ema_decay_at(10_000, 0.99) == 0.99


def test_showing_the_average_leaves_the_training_weights_untouched():
    state = state_with(1.0, ema_decay=0.9)
    state.put({"w": torch.full((3,), 3.0)})
    before = state.named["w"].detach().clone()
    with state.showing_current():
        assert torch.equal(state.named["w"].detach(), torch.ones(3))
    assert torch.equal(state.named["w"].detach(), before)


def test_a_loss_that_is_no_number_is_never_the_best():
    state = state_with(1.0)
    for step, loss in enumerate([float("nan"), 0.5, float("inf")], start=1):
        state.note(step, loss)
    assert (state.best.step, state.num_worse) == (2, 1)


def test_the_lowest_held_out_loss_keeps_its_weights_and_a_tie_is_not_better():
    state = state_with(1.0)
    for step, (loss, value) in enumerate([(0.5, 1.0), (0.4, 2.0), (0.4, 3.0), (0.6, 4.0)], start=1):
        state.put({"w": torch.full((3,), value)})
        state.note(step, loss)
    assert (state.best.step, state.best.loss, state.num_worse) == (2, 0.4, 2)
    assert torch.equal(state.best.weights["w"], torch.full((3,), 2.0))
