"""What --train_batch_size auto chooses, and what a refusal offers."""

import dataclasses

import pytest
import torch

from pipeline.cards import Device
from pipeline.geometry import Size
from pipeline.run.cost.fitting import largest_fitting, refusal
from pipeline.run.cost.memory import Memory
from pipeline.run.cost.step_on_meta import StepShape

pytestmark = pytest.mark.unit
GIB = 2**30
LESS = " --base_quantization and --offload_base leave less of the base there."
WANTED = StepShape(Size.square(512), 6, torch.bfloat16, "cuda", False)


def memory_of(shape: StepShape) -> Memory:
    """A model of 2 GiB, and for each picture of 512 x 512 another, or a quarter where it is computed again."""
    each = GIB * shape.size.area / 512**2 / (4 if shape.checkpointing else 1)
    activations = round(shape.batch_size * each)
    return Memory(weights=2 * GIB, adapter=0, activations=activations, decoder=0, allowance=0, encoding=0)


@pytest.mark.parametrize(
    ("room", "found"),
    [
        (8.0, (6, False)),
        (7.9, (3, False)),  # of six, four and five at once would leave a rest
        (4.0, (2, False)),
        (3.0, (1, False)),  # kept as long as one example fits so
        (2.9, (3, True)),
        (2.25, (1, True)),
        (2.2, None),
    ],
)
def test_as_many_at_once_as_fit_and_divide_the_step(room, found):
    shape = largest_fitting(memory_of, WANTED, Device("a card", "cuda", round(room * GIB)))
    assert (None if shape is None else (shape.batch_size, shape.checkpointing)) == found


def test_asked_for_recomputing_stays():
    shape = largest_fitting(memory_of, dataclasses.replace(WANTED, checkpointing=True), Device("x", "cuda", 20 * GIB))
    assert shape is not None
    assert shape.checkpointing


def test_a_refusal_says_what_is_taken_and_what_would_fit():
    said = refusal(memory_of, WANTED, Device("RTX 3060", "cuda", 6 * GIB), 64)
    assert said.startswith("This run takes about 8.0 GiB, and RTX 3060 has 6.0 GiB: 8.0 GiB = 2.0 GiB of weights")
    assert LESS in said
    assert said.removesuffix(LESS).endswith(
        "It would fit with --train_batch_size 3 (and 2 times the --gradient_accumulation_steps), or "
        "--gradient_checkpointing, or --resolution 384."
    )
    said = refusal(memory_of, WANTED, Device("RTX 3060", "cuda", round(2.9 * GIB)), 64)
    assert said.removesuffix(LESS).endswith(
        "It would fit with --gradient_checkpointing and --train_batch_size 3 "
        "(and 2 times the --gradient_accumulation_steps)."
    )
    assert (
        refusal(memory_of, WANTED, Device("x", "cuda", GIB), 64)
        .removesuffix(LESS)
        .endswith("at half the side would fit.")
    )
    assert LESS not in refusal(memory_of, WANTED, Device("x", "cpu", GIB), 64)


def test_where_no_change_is_enough_by_itself_all_of_them_are_offered_together():
    """Of 2.2 GiB the weights leave a fifth: one recomputed example takes 0.25, at three quarters of the side 0.14."""
    said = refusal(memory_of, WANTED, Device("x", "cuda", round(2.2 * GIB)), 64)
    assert said.removesuffix(LESS).endswith(
        "It would fit with --gradient_checkpointing and --train_batch_size 1 "
        "(and 6 times the --gradient_accumulation_steps) and --resolution 384."
    )


def test_a_smaller_resolution_is_the_side_of_a_square_whatever_the_shape_of_the_largest_pictures():
    wide = dataclasses.replace(WANTED, size=Size(1024, 256))
    assert refusal(memory_of, wide, Device("x", "cuda", 6 * GIB), 64).removesuffix(LESS).endswith("--resolution 384.")
