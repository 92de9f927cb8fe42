"""What an optimizer is said to keep, against what it keeps."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.cards import Device
from pipeline.config import Run
from pipeline.families import registry
from pipeline.families.blocks import repeated_blocks
from pipeline.families.meta import part_on_meta
from pipeline.geometry import Size
from pipeline.run.cost.counts import Counts, num_weights
from pipeline.run.cost.estimate import chosen_modules
from pipeline.run.cost.memory import Memory, memory_of, state_bytes
from pipeline.run.cost.step_on_meta import StepShape
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


def test_where_text_encoders_learn_all_of_them_stay(miniature_of):
    """SD3's T5 never learns, and is the largest."""
    family, dtype = registry.detect(miniature_of("sd3")), torch.bfloat16
    t5 = num_weights(part_on_meta(family.source, "text_encoder_3"))
    found = {}
    for learns in (False, True):
        run = Run().replaced(train_text_encoder=learns)
        counts = Counts(run, family, family.path(run.objective), chosen_modules(run, family))
        found[learns] = counts.reading_bytes(dtype), counts.frozen_bytes(dtype)
        shape = StepShape(Size.square(64), 1, dtype, "cuda", False)
        memory = memory_of(counts, shape, has_previews=False, keeps_best=False)
        assert memory.weights == pytest.approx(found[learns][1], rel=0.01), "places in a text stay whole numbers"
    assert [found[learns][0] for learns in (False, True)] == [0, 2 * t5]


def test_a_base_in_few_bits_or_streamed_takes_what_is_left_of_it(miniature_of):
    family, found = registry.detect(miniature_of("flux")), {}
    spared = {"whole": {}, "int8": {"base_quantization": "int8"}, "nf4": {"base_quantization": "nf4"}}
    for name, values in (*spared.items(), ("streamed", {"offload_base": True})):
        run = Run().replaced(**values, gradient_checkpointing=True)
        counts = Counts(run, family, family.path(run.objective), chosen_modules(run, family))
        step = counts.step(StepShape(Size.square(64), 1, torch.bfloat16, "cuda", True))
        found[name] = step.frozen_bytes, step.num_flops
    whole, blocks = part_on_meta(family.source, "transformer"), {}
    for name, block in repeated_blocks(whole).items():
        blocks[name] = 2 * num_weights(block)
    rest = found["whole"][0] - sum(blocks.values())
    assert found["streamed"][0] == rest + sum(sorted(blocks.values())[-2:])
    assert found["nf4"][0] < found["int8"][0] < found["whole"][0]
    assert {flops for _, flops in found.values()} == {found["whole"][1]}, "no work is spared"


def card_of(room: int) -> Device:
    return Device("a card", "cuda", room)
