"""What an optimizer is said to keep, against what it keeps."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.cards import Device
from pipeline.config import Run
from pipeline.run.cost.memory import Memory, state_bytes
from pipeline.training.optim import BUILDERS, build_optimizer

pytestmark = pytest.mark.unit
SHAPES = [(16, 320), (1280, 16), (16, 8, 3, 3), (48,)]


@pytest.mark.parametrize("name", list(BUILDERS))
def test_the_bytes_of_an_optimizers_state(name):
    run = Run().replaced(optimizer=name, learning_rate=1.0)
    named = {f"{number}.lora_A": nn.Parameter(torch.rand(shape)) for number, shape in enumerate(SHAPES)}
    optimizer = build_optimizer(named, run.optim)
    for value in named.values():
        value.grad = torch.rand_like(value)
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in kept if value.dim()}
    assert state_bytes(run, SHAPES) == pytest.approx(sum(storages.values()), rel=0.05)


def test_the_most_at_a_time_is_training_or_encoding():
    parts = {"weights": 40, "adapter": 5, "activations": 30, "decoder": 1, "allowance": 10}
    assert Memory(**parts, encoding=20).total == 86
    assert Memory(**parts, encoding=90).total == 100
    memory = Memory(**parts, encoding=20)
    found = {room: (memory.fits(card), memory.surely_not(card)) for room in (86, 85, 67, 66) if (card := card_of(room))}
    assert found == {86: (True, False), 85: (False, False), 67: (False, False), 66: (False, True)}


def card_of(room: int) -> Device:
    return Device("a card", "cuda", room)
