"""The order of very many examples: on two levels, with both made small enough to be looked at whole."""

import collections
import itertools

import numpy as np
import pytest

from pipeline import rng
from pipeline.data import orders, sampler
from pipeline.data.buckets import Bucket, together
from pipeline.data.entries import Entries, Entry, each_once
from pipeline.data.orders import Pass, order_of
from pipeline.data.sampler import MicroBatches, StepSampler
from pipeline.geometry import Size

pytestmark = pytest.mark.unit

BLOCK = 8
SHAPES = [*itertools.product((17, 23, 24, 25, 64, 97, 200, 331), (1, 2, 3, 7, 8, 16)), (33, 40), (18, 17)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Two levels from 17 places on, in blocks of 8."""
    monkeypatch.setattr(orders, "WHOLE", 16)
    monkeypatch.setattr(orders, "BLOCK", BLOCK)
    sampler._steps_of.cache_clear()
    yield
    sampler._steps_of.cache_clear()


@pytest.fixture
def drawn(monkeypatch):
    """How often every order was drawn, by its name."""
    found = collections.Counter()

    def order(seed, epoch, part, number):
        found[epoch, part] += 1
        return original(seed, epoch, part, number)

    original = rng.order
    monkeypatch.setattr(rng, "order", order)
    return found


def visited(one):
    order = order_of(one)
    return [order(number) for number in range(one.length)]


def stream_of(length, batch_size, seed=0):
    return StepSampler(together(length, Size.square(64)), batch_size, seed)


def blocks_of(positions):
    return [position.index // BLOCK for position in positions]


@pytest.mark.parametrize("length", [1, 7, 15, 16])
def test_few_places_are_in_one_order_as_they_always_were(length):
    for times in range(3):
        assert visited(Pass(5, times, "a", length, 4)) == rng.permutation(5, times, "a", "order", length)


@pytest.mark.parametrize(("length", "lanes"), SHAPES)
def test_every_pass_visits_every_place_once(length, lanes):
    passes = [visited(Pass(3, times, "", length, lanes)) for times in range(5)]
    assert all(sorted(places) == list(range(length)) for places in passes)
    assert len({tuple(places) for places in passes}) == 5


def test_the_order_is_a_function_of_what_it_is_made_from_and_of_each_part_of_it():
    one = Pass(1, 2, "a", 100, 4)
    others = [Pass(0, 2, "a", 100, 4), Pass(1, 1, "a", 100, 4), Pass(1, 2, "b", 100, 4), Pass(1, 2, "a", 100, 5)]
    assert visited(one) == visited(one)
    assert all(visited(other) != visited(one) for other in others)
    backwards = order_of(one)
    assert [backwards(number) for number in reversed(range(100))] == visited(one)[::-1]


@pytest.mark.parametrize(("length", "batch"), [(97, 4), (200, 7), (33, 40), (64, 8)])
def test_a_step_reached_at_once_is_the_one_reached_by_going_on(length, batch):
    whole = list(MicroBatches(stream_of(length, batch, 1), 0, 90, 1))
    for first in range(0, 90, 13):
        assert list(MicroBatches(stream_of(length, batch, 1), first, 90, 1)) == whole[first:]


def test_a_step_anywhere_draws_the_blocks_of_its_lanes_and_no_other(drawn):
    for step in (0, 250, 10**9):
        drawn.clear()
        stream_of(10_000, 4).step(step)
        assert sum(drawn.values()) <= 1 + 4  # of the blocks, and within one for each place


def test_a_pass_draws_every_block_once_but_those_that_two_lanes_meet_in(drawn):
    length, lanes = 1003, 5
    list(MicroBatches(stream_of(length, lanes), 0, length // lanes, 1))
    assert len(drawn) == 1 + -(-length // BLOCK)
    assert sum(drawn.values()) <= len(drawn) + lanes - 1


@pytest.mark.parametrize(("length", "batch"), [(1003, 8), (1024, 8), (999, 6)])
def test_the_places_of_a_step_come_from_as_many_blocks(length, batch):
    stream = stream_of(length, batch)
    for step in range(length // batch):  # the next may take from two passes
        assert len(set(blocks_of(stream.step(step)))) == batch


def test_steps_go_through_blocks_in_no_order_of_the_dataset():
    stream = stream_of(4000, 8)
    steps = [blocks_of(stream.step(step)) for step in range(0, 500, BLOCK)]
    lanes = np.array(steps, dtype=float).T
    assert max(abs(np.corrcoef(lane, np.arange(len(lane)))[0, 1]) for lane in lanes) < 0.5
    assert lanes.mean(axis=0).std() < 0.15 * 4000 / BLOCK  # a step is spread over the dataset: 0.29 / sqrt(8) = 0.10


def test_two_processes_read_blocks_of_their_own_within_a_window():
    length, window = 2005, 40
    for start in (0, 100, 200, 260, 600):  # 250 steps are a pass
        first, second = (
            {
                (position.epoch, position.index // BLOCK)
                for batch in MicroBatches(stream_of(length, 8), start, start + window, 1, rank, 2)
                for position in batch
            }
            for rank in (0, 1)
        )
        assert first
        assert not first & second
        assert max(len(first), len(second)) <= 2 * 4 * (window // BLOCK + 2)


def test_buckets_are_gone_through_once_an_epoch_and_their_steps_are_mixed():
    lengths, batch, first, buckets = (100, 37, 5, 333), 4, 0, []
    for number, length in enumerate(lengths):
        buckets.append(Bucket(Size(8 * number + 8, 64), Entries.of(np.arange(first, first + length))))
        first += length
    stream = StepSampler(tuple(buckets), batch, 0)
    for epochs in (1, 2, 3):
        shown = collections.Counter(
            position.index for step in range(stream.num_steps(epochs)) for position in stream.step(step)
        )
        assert len(shown) == first
        assert min(shown.values()) == epochs
        assert sum(shown.values()) - epochs * first < batch * len(lengths)
    sizes = [stream.step(step)[0].size for step in range(stream.num_steps(1))]
    assert max(len(list(run)) for _, run in itertools.groupby(sizes)) < len(sizes) // 4
    assert [stream.step(step) for step in (70, 3, 200)] == [
        StepSampler(tuple(buckets), batch, 0).step(step) for step in (70, 3, 200)
    ]


def test_entries_of_a_picture_that_came_twice_keep_the_first():
    joined = each_once([Entries.of(np.array([3, 1]), 1), Entries.of(np.array([5, 3]), 0)])
    assert list(joined) == [Entry(1, 1), Entry(3, 0), Entry(5, 0)]
    assert joined == each_once([joined, joined])
    assert joined.num_turns == 2


@pytest.mark.parametrize("num_steps", [1, 40, 140])
def test_what_some_steps_show_is_known_without_going_through_them(num_steps):
    sampler = stream_of(1003, 7)
    seen = {position.index for step in range(num_steps) for position in sampler.step(step)}
    assert sampler.shown_by(num_steps)[0].entries.places.tolist() == sorted(seen)
