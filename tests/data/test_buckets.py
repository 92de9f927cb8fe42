"""Buckets: the size a picture is shown at, that nothing is scaled up or lost, and how a stream goes through them."""

import collections
import itertools
import random

import numpy as np
import pytest

from pipeline.data.buckets import (
    Bucket,
    Shapes,
    default_step,
    is_enlarged,
    lost_by_cutting,
)
from pipeline.data.buckets import make_buckets as buckets_of
from pipeline.data.entries import Entries
from pipeline.data.sampler import MicroBatches, StepSampler
from pipeline.geometry import Size

pytestmark = pytest.mark.unit
LARGE = Shapes(1024, 64, 2.5, enlarges=False)
SMALL = Shapes(64, 8, 2.5, enlarges=False)


def of(*sizes):
    return [Size(*size) for size in sizes]


def make_buckets(originals, possible, batch_size):
    return buckets_of([(original, possible) for original in originals], batch_size)


def members(buckets):
    return {str(bucket.size): [entry.index for entry in bucket.entries] for bucket in buckets}


OTHERS = [Shapes(512, 32, 4.0, enlarges=False), Shapes(1000, 64, 2.0, enlarges=True)]


@pytest.mark.parametrize("shapes", [LARGE, SMALL, *OTHERS])
def test_the_sizes_have_about_the_pixels_of_the_square_and_none_has_more(shapes):
    for size in shapes.ladder:
        assert size.area <= shapes.side**2
        assert size.area > shapes.side**2 - shapes.step * max(size.width, size.height)  # a step more would be too much
        assert max(size.width, size.height) <= shapes.max_aspect * min(size.width, size.height)
        assert size == Size.square(shapes.side) or not (size.width % shapes.step or size.height % shapes.step)
        assert Size(size.height, size.width) in shapes.ladder


def test_the_usual_sizes_of_sdxl_are_among_them():
    usual = of((1024, 1024), (832, 1216), (896, 1152), (1152, 896), (1216, 832), (768, 1344), (1344, 768), (640, 1536))
    assert set(usual) <= set(LARGE.ladder)
    assert [default_step(side, 8) for side in (1024, 768, 512, 64)] == [64, 48, 32, 8]
    assert default_step(1024, 32) == 64


def test_the_step_is_that_of_diffusers_and_its_sizes_are_at_most_one_away():
    from diffusers.training_utils import generate_aspect_ratio_buckets

    for height, width in generate_aspect_ratio_buckets(1024, divisibility=64):
        nearest = min(abs(size.width - width) + abs(size.height - height) for size in LARGE.ladder)
        assert nearest <= 64, (width, height)


@pytest.mark.parametrize("size", LARGE.ladder, ids=str)
def test_a_picture_of_such_a_size_keeps_its_pixels(size):
    assert LARGE.size_for(size) == size
    assert lost_by_cutting(size, size) == 0
    assert not is_enlarged(size, size)


def test_shapes_stay_apart_and_small_pictures_are_not_scaled_up():
    (tall,), (wide,), (square,) = (
        [bucket.size for bucket in make_buckets(of(size) * 4, [SMALL], 4)] for size in ((64, 128), (128, 64), (64, 64))
    )
    assert (tall, wide, square) == (Size(40, 88), Size(88, 40), Size(64, 64))
    assert LARGE.size_for(Size(1000, 1000)) == Size(960, 960)
    assert LARGE.size_for(Size(700, 300)) == Size(640, 256)
    assert LARGE.size_for(Size(5000, 400)) == Size(960, 384)  # no longer than 2.5 times its height
    assert LARGE.size_for(Size(100, 3000)) == Size(256, 640)  # enlarged: a side is a quarter of the square's at least
    assert LARGE.size_for(Size(20, 20)) == Size(256, 256)
    enlarging = Shapes(1024, 64, 2.5, enlarges=True)
    assert enlarging.size_for(Size(20, 20)) == Size(1024, 1024)
    assert enlarging.size_for(Size(30, 20)) == Size(1216, 832)
    squares = Shapes(1024, 64, 1.0, enlarges=True)
    assert {squares.size_for(size) for size in of((20, 20), (3000, 100), (1024, 1024))} == {Size(1024, 1024)}


def test_pictures_of_all_kinds_are_cut_little_and_enlarged_only_where_they_are_tiny():
    chance = random.Random(0)
    for _ in range(2000):
        original = Size(chance.randint(1, 4000), chance.randint(1, 4000))
        size = LARGE.size_for(original)
        assert size.width % 64 == size.height % 64 == 0
        assert size.area <= LARGE.side**2
        assert is_enlarged(original, size) == (min(original.width, original.height) < 256)
        aspect = max(original.width, original.height) / min(original.width, original.height)
        if aspect <= 2.5 and min(original.width, original.height) >= 512:
            assert lost_by_cutting(original, size) < 0.12, (original, size)


def test_each_picture_is_once_in_one_bucket_and_small_buckets_join_the_nearest():
    originals = of(*[(96, 96)] * 5, *[(96, 60)] * 4, (96, 61), (60, 96), (90, 90))
    buckets = make_buckets(originals, [SMALL], 4)
    assert sorted(entry.index for bucket in buckets for entry in bucket.entries) == list(range(12))
    assert {entry.turn for bucket in buckets for entry in bucket.entries} == {0}
    found = members(buckets)
    assert found["64 x 64"] == [0, 1, 2, 3, 4, 11]
    assert 9 in found["80 x 48"]  # 96 x 61 beside 96 x 60
    assert found["48 x 80"] == [10]  # the lone upright one, for which the others would be too wide
    larger = members(make_buckets([*originals[:10], Size(90, 120)], [SMALL], 4))
    assert larger["64 x 64"] == [0, 1, 2, 3, 4, 10]
    everywhere = make_buckets(originals, [SMALL], 100)
    assert len(everywhere) == 2
    assert any(bucket.joined for bucket in everywhere)


def test_what_is_too_small_for_its_neighbours_meets_its_like_or_keeps_to_itself():
    two = make_buckets(of(*[(512, 512)] * 8, (130, 160), (140, 150)), [Shapes(512, 32, 2.5, enlarges=False)], 2)
    assert members(two) == {"128 x 128": [8, 9], "512 x 512": list(range(8))}
    assert two[0].joined == (Size(128, 160),)
    lone = make_buckets(of(*[(512, 512)] * 8, (140, 140)), [Shapes(512, 32, 2.5, enlarges=False)], 4)
    assert members(lone) == {"128 x 128": [8], "512 x 512": list(range(8))}
    larger = make_buckets(of(*[(512, 512)] * 8, (140, 140)), [Shapes(512, 32, 2.5, enlarges=True)], 4)
    assert members(larger) == {"512 x 512": list(range(9))}
    wide = make_buckets(of(*[(512, 512)] * 8, (2000, 820)), [Shapes(512, 32, 2.5, enlarges=False)], 4)
    assert len(wide) == 2  # more than half of it would be cut off


def test_no_joining_scales_a_picture_up():
    chance = random.Random(1)
    for batch_size in (2, 7, 30):
        originals = [Size(chance.randint(16, 200), chance.randint(16, 200)) for _ in range(100)]
        buckets = make_buckets(originals, [SMALL], batch_size)
        assert sorted(entry.index for bucket in buckets for entry in bucket.entries) == list(range(100))
        for bucket in buckets:
            assert not any(is_enlarged(originals[entry.index], bucket.size) for entry in bucket.entries)
            for entry in bucket.entries:  # and none is left with less than half of what it would have shown
                original, own = originals[entry.index], SMALL.size_for(originals[entry.index])
                kept = (1 - lost_by_cutting(original, bucket.size)) / (1 - lost_by_cutting(original, own))
                assert kept * min(1, bucket.size.area / own.area) >= 0.5
        before = {str(SMALL.size_for(original)) for original in originals}
        assert len(buckets) < len(before)


def test_several_resolutions_show_a_picture_at_each_it_has_the_pixels_for():
    offered = [Shapes(side, side // 16, 2.5, enlarges=False) for side in (64, 128, 96)]
    found = make_buckets(of((200, 200), (100, 100), (70, 70), (30, 30)), offered, 1)
    assert members(found) == {"28 x 28": [3], "64 x 64": [0, 1, 2], "96 x 96": [0, 1], "128 x 128": [0]}
    turns = {str(bucket.size): bucket.entries[0].turn for bucket in found}
    assert turns == {"28 x 28": 0, "64 x 64": 0, "96 x 96": 1, "128 x 128": 2}
    stream = StepSampler(found, 1, seed=0)
    positions = [stream.step(step)[0] for step in range(stream.num_steps(5))]
    assert len({(place.index, place.epoch) for place in positions}) == len(positions)  # never the same draws twice
    assert collections.Counter(place.index for place in positions) == {0: 15, 1: 10, 2: 5, 3: 5}


def stream_of(lengths, batch_size, seed=0):
    first, buckets = 0, []
    for number, length in enumerate(lengths):
        entries = Entries.of(np.arange(first, first + length))
        buckets.append(Bucket(Size(8 * number + 8, 64), entries))
        first += length
    return StepSampler(tuple(buckets), batch_size, seed)


@pytest.mark.parametrize(
    ("lengths", "batch_size"), [((10, 3, 7), 4), ((4, 4, 4), 4), ((1, 50), 6), ((1, 1), 4), ((9,), 4)]
)
def test_a_step_is_of_one_bucket_and_an_epoch_shows_every_example_once_more(lengths, batch_size):
    stream = stream_of(lengths, batch_size)
    seen, shown = collections.Counter(), set()
    for epoch in range(12):
        for step in range(stream.num_steps(epoch), stream.num_steps(epoch + 1)):
            positions = stream.step(step)
            assert len(positions) == batch_size
            assert len({place.size for place in positions}) == 1
            seen.update(place.index for place in positions)
            drawn = {(place.index, place.epoch) for place in positions}
            assert len(drawn) == batch_size
            assert not drawn & shown  # nothing is drawn twice
            shown |= drawn
        number = stream.num_steps(epoch + 1)
        assert max(place for _, place in shown) < stream.num_epochs(number)
        first = 0
        for length in lengths:  # nobody waits for another turn, and what goes beyond is less than a step
            counts = [seen[index] for index in range(first, first + length)]
            assert min(counts) >= epoch + 1
            assert sum(counts) - (epoch + 1) * length < batch_size
            assert max(counts) - min(counts) <= 1
            first += length
    if max(lengths) > 1:
        assert [stream_of(lengths, batch_size, seed).step(0) for seed in range(4)] != [stream.step(0)] * 4


def test_buckets_take_turns_at_random():
    stream = stream_of((40, 40), 4)
    sizes = [stream.step(step)[0].size for step in range(20)]
    changes = sum(first != second for first, second in itertools.pairwise(sizes))
    assert 4 < changes < 16


def test_starting_at_a_step_is_having_come_there_and_two_processes_see_what_one_does():
    stream = stream_of((7, 5, 12), 4, seed=2)
    whole = list(MicroBatches(stream, 0, 30, 2))
    assert list(MicroBatches(stream_of((7, 5, 12), 4, seed=2), 17, 30, 2)) == whole[34:]
    first, second = (list(MicroBatches(stream, 0, 30, 1, rank, 2)) for rank in (0, 1))
    assert [batch for pair in zip(first, second, strict=True) for batch in pair] == whole


def test_many_pictures_in_many_sizes_are_addressed_at_once():
    chance = random.Random(3)
    lengths = [chance.randint(1, 2000) for _ in range(40)]
    stream = stream_of(lengths, 64)
    step = stream.num_steps(7) + 123
    assert len(stream.step(step)) == 64
    assert stream.num_epochs(step) >= 8
