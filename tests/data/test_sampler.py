import collections

import numpy as np
import pytest

from pipeline.data.buckets import Bucket, together
from pipeline.data.entries import Entries
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


@pytest.mark.parametrize("num_steps", [1, 3, 6, 7, 50])
def test_what_some_steps_show_is_known_without_going_through_them(num_steps):
    square, wide = (Size(width, 64) for width in (64, 96))
    parts = (Entries.of(np.arange(9)), Entries.of(np.arange(5, 17), turn=1))
    sampler = StepSampler((Bucket(square, parts[0]), Bucket(wide, parts[1])), 3, 0)
    seen = {(position.index, position.size) for step in range(num_steps) for position in sampler.step(step)}
    found = sampler.shown_by(num_steps)
    kept = {(index, bucket.size) for bucket in found for index in bucket.entries.places.tolist()}
    assert kept == seen
    assert (found == sampler.buckets) == (num_steps >= 7)
    assert all(entry in dict(zip((square, wide), parts, strict=True))[b.size] for b in found for entry in b.entries)


def test_seeds_differ():
    assert stream_of(50, 50, 0).step(0) != stream_of(50, 50, 1).step(0)
