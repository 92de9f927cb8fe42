import collections

import pytest

from pipeline.data.buckets import together
from pipeline.data.sampler import MicroBatches, StepSampler
from pipeline.geometry import Size

pytestmark = pytest.mark.unit


def stream_of(num_examples, batch_size, seed):
    return StepSampler(together(num_examples, Size.square(64)), batch_size, seed)


@pytest.mark.parametrize(("num_examples", "batch"), [(7, 3), (1, 4), (8, 8), (5, 12)])
def test_every_epoch_sees_every_example_once(num_examples, batch):
    sampler = stream_of(num_examples, batch, 0)
    stream = [position for step in range(5 * num_examples) for position in sampler.step(step)]
    epochs = collections.defaultdict(list)
    for position in stream:
        epochs[position.epoch].append(position.index)
    complete = [epochs[epoch] for epoch in range(max(epochs))]
    assert all(sorted(indices) == list(range(num_examples)) for indices in complete)
    if num_examples > 4:
        assert len({tuple(indices) for indices in complete}) > 1


def test_starting_at_a_step_is_having_come_there():
    sampler = stream_of(7, 4, 1)
    whole = list(MicroBatches(sampler, 0, 9, 2))
    assert list(MicroBatches(sampler, 5, 9, 2)) == whole[10:]
    assert len(MicroBatches(sampler, 5, 9, 2)) == 8


def test_two_processes_see_together_what_one_sees_in_two_micro_steps():
    sampler = stream_of(20, 8, 2)
    one = list(MicroBatches(sampler, 0, 3, 2))
    first, second = (list(MicroBatches(sampler, 0, 3, 1, rank, 2)) for rank in (0, 1))
    assert [batch for pair in zip(first, second, strict=True) for batch in pair] == one


def test_seeds_differ():
    assert stream_of(50, 50, 0).step(0) != stream_of(50, 50, 1).step(0)
