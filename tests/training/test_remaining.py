"""What is left of a run, against runs whose every second is known."""

import re

import pytest

from pipeline.progress import Progress
from pipeline.training.intervals import Intervals
from pipeline.training.remaining import Beside, Remaining

pytestmark = pytest.mark.unit

# The demo on two busy cores, 2026-11-27: seconds of each step, of a held-out loss, of the checkpoint, of the pictures.
RECORDED = """
1.01 0.83 0.91 0.52 0.52 0.53 0.94 0.68 0.54 0.50 0.51 0.51 0.49 0.53 0.51 0.53 0.53 0.49 0.51 0.49 0.48 0.50
0.51 0.50 0.52 0.54 0.52 0.52 0.56 0.54 0.60 0.53 0.52 0.52 0.57 0.52 0.53 0.52 0.53 0.52 0.54 0.52 0.50 0.50
0.57 0.54 0.57 0.56 0.49 0.51 0.52 0.50 0.50 0.49 0.51 0.57 0.59 0.63 0.52 0.53 0.59 0.56 0.55 0.57 0.58 0.55
0.61 0.63 0.60 0.54 0.55 0.61 0.57 0.59 0.55 0.54 0.57 0.59 0.79 0.91 0.91 0.77 0.74 0.59 0.51 0.51 0.55 0.61
0.61 0.56 0.54 0.56 0.53 0.56 0.53 0.55 0.55 0.56 0.54 0.56 0.54 0.56 0.55 0.51 0.52 0.56 0.55 0.51 0.51 0.57
0.53 0.55 0.57 0.53 0.54 0.55 0.55 0.53 0.56 0.55 0.64 0.62 0.61 0.64 0.55 0.52 0.49 0.51 0.59 0.64 0.56 0.56
0.50 0.54 0.53 0.60 0.59 0.64 0.57 0.59 0.57 0.56 0.56 0.58 0.55 0.55 0.56 0.57 0.55 0.56 0.68 0.60 0.56 0.60
0.58 0.57 0.55 0.55 0.63 0.60 0.60 0.59 0.58 0.58 0.58 0.54 0.68 0.62 0.65 0.57 0.56 0.59 0.57 0.62 0.60 0.54
0.57 0.60 0.65 0.61 0.59 0.66 0.57 0.59 0.51 0.62 0.51 0.61 0.59 0.52 0.58 0.59 0.59 0.59 0.69 0.66 0.56 0.55
0.58 0.66 0.60 0.60 0.60 0.55 0.57 0.60 0.57 0.58 0.62 0.62
"""
VALIDATION, CHECKPOINT, PICTURES = 4.3, 0.2, 117.2


def played(steps, intervals, beside, *, validation, base=None, preview=0.0, save=0.0, at_end=0.0, first_step=0):
    """After each step, what is said to be left and what is; the base is measured before the first."""
    spent = {"step": 0.0, "data": 0.0, "validate": validation if base is None else base, "save": 0.0, "draw": 0.0}
    remaining = Remaining(
        intervals, beside, lambda *what: sum(spent[name] for name in what), first_step=first_step, batch_size=8
    )
    said, times = {}, {}
    for done, seconds in enumerate(steps, first_step + 1):
        spent["step"] += seconds
        spent["validate"] += validation * intervals.validation_due(done)
        spent["draw"] += preview * intervals.preview_due(done)
        said[done], times[done] = remaining.seconds(done), sum(spent.values()) + save * intervals.checkpoint_due(done)
        spent["save"] += save * intervals.checkpoint_due(done)
    whole = sum(spent.values()) + at_end
    return {done: (said[done], whole - times[done]) for done in said}, whole


def test_the_end_is_known_within_a_tenth_after_a_twentieth_of_a_recorded_run():
    steps = [float(word) for word in RECORDED.split()]
    intervals = Intervals(len(steps), checkpoint=500, validation=60, preview=0)
    found, whole = played(
        steps,
        intervals,
        Beside(validation=144, preview=64, at_end=4064),
        validation=VALIDATION,
        save=CHECKPOINT,
        at_end=PICTURES,
    )
    assert [done for done, (said, _) in found.items() if said is None] == [1, 2], "slow ones say nothing of the others"
    late = {done: said - true for done, (said, true) in found.items() if whole - true >= 0.05 * whole}
    assert len(late) > 190
    assert max(map(abs, late.values())) < 0.1 * whole


def test_every_pause_that_is_still_to_come_counts():
    """Steps of a second after a slow first; 2 s for 20 passes of a held-out loss, so 1 s for 10 of previews."""
    intervals = Intervals(100, checkpoint=40, validation=30, preview=25)
    beside = Beside(validation=20, preview=10, at_end=50)
    found, _ = played([9.0] + [1.0] * 99, intervals, beside, validation=2.0, preview=1.0, save=0.5, at_end=5.0)
    for done in (3, 29, 30, 31, 99, 100):
        said, true = found[done]
        saves = 0.5 * intervals.checkpoints_left(done)
        assert said == pytest.approx(true - (saves if done < 40 else 0.0)), (
            "a checkpoint's time is known from the first"
        )


@pytest.mark.parametrize(("base", "of_pictures"), [(2.0, 0.1), (4.0, 0.15)])
def test_held_out_losses_with_the_adapter_have_their_own_price(base, of_pictures):
    """Pictures are drawn with it folded in, as dear as without it; the first loss, the base's, may be slow."""
    intervals = Intervals(100, checkpoint=200, validation=30, preview=0)
    found, _ = played([1.0] * 100, intervals, Beside(validation=20, at_end=50), base=base, validation=3.0)
    assert found[10][0] == pytest.approx(90 * 1.0 + 4 * base + 50 * base / 20)
    assert found[40][0] == pytest.approx(60 * 1.0 + 3 * 3.0 + 50 * of_pictures)


def test_until_one_is_measured_a_step_may_say_that_it_costs_more_than_the_base():
    intervals = Intervals(100, checkpoint=200, validation=30, preview=0)
    found, _ = played([4.8] * 20, intervals, Beside(validation=20), base=2.0, validation=5.0)
    assert found[10][0] == pytest.approx(90 * 4.8 + 4 * 20 * 4.8 / 8 / 2.4)


def test_a_session_that_goes_on_counts_its_own_steps():
    intervals = Intervals(100, checkpoint=50, validation=30, preview=0)
    found, _ = played([1.0] * 40, intervals, Beside(validation=20), validation=2.0, first_step=60)
    assert found[65][0] == pytest.approx(35 * 1.0 + 2 * 2.0)


def test_without_a_held_out_loss_a_step_tells_what_a_picture_takes():
    intervals = Intervals(10, checkpoint=50, validation=0, preview=0, validates=False)
    found, _ = played([4.8] * 10, intervals, Beside(at_end=100), validation=0.0)
    assert found[5][0] == pytest.approx(5 * 4.8 + 100 * 4.8 / 8 / 2.4)


def test_what_is_left_of_each_kind_is_what_will_be_due():
    for num_steps, every in ((100, 30), (90, 30), (7, 10), (5, 1)):
        intervals = Intervals(num_steps, checkpoint=every, validation=every, preview=every)
        for done in range(num_steps + 1):
            later = range(done + 1, num_steps + 1)
            assert intervals.validations_left(done) == sum(map(intervals.validation_due, later))
            assert intervals.checkpoints_left(done) == sum(map(intervals.checkpoint_due, later))
            assert intervals.previews_left(done) == sum(map(intervals.preview_due, later))
    never = Intervals(10, checkpoint=5, validation=0, preview=0)
    assert [never.validations_left(done) for done in (0, 9, 10)] == [1, 1, 0]
    assert never.previews_left(0) == 0


@pytest.mark.parametrize(("work", "at_end"), [(4032.0, 4064), (28800.0, 0), (500.0, 0)])
def test_held_out_losses_take_their_share_of_the_whole_run_at_most(work, at_end):
    beside = Beside(validation=144, at_end=at_end)
    number = beside.validations_within(0.09, work)
    taken = [count * 144 / (work + at_end + count * 144) for count in (number, number + 1)]
    assert taken[0] <= 0.09 < taken[1]


def test_a_run_of_few_steps_knows_what_is_left_after_its_last():
    intervals = Intervals(2, checkpoint=50, validation=0, preview=0, validates=False)
    found, _ = played([4.8] * 2, intervals, Beside(at_end=100), validation=0.0)
    assert [found[1][0], found[2][0]] == [None, pytest.approx(100 * 4.8 / 8 / 2.4)]


def test_what_is_not_known_yet_is_not_said(capfd):
    progress = Progress(10, "step", steadily=True, left=lambda done: None if done == 1 else 61.0)
    progress.update(1, "loss 0.5")
    progress.update(10, "loss 0.4")
    first, last = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"step 1/10  loss 0\.5  \d+\.\d\d s/step", first)
    assert last.startswith("step 10/10  loss 0.4  ")
    assert last.endswith("  1:01 left")
