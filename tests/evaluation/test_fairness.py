"""Groups: known gaps are found, intervals of picked extremes hold as often as they say, 90 to 10 is 0.4 from even."""

import dataclasses
import itertools
import math

import pytest
import torch

from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.fairness import parity, representation
from pipeline.evaluation.fairness.measuring import Grouping, group_read, parities
from pipeline.evaluation.fairness.naming import all_named_in, named_in, unreadable
from pipeline.evaluation.fairness.parity import Changes, Means, by_group, side
from pipeline.evaluation.fairness.record import Fairness, Group
from pipeline.evaluation.fairness.representation import shares
from pipeline.evaluation.fairness.template import filled, slots_of
from pipeline.evaluation.metrics import distances
from pipeline.evaluation.metrics.compared import Seen
from pipeline.evaluation.statistics import Interval, difference, mean_of, share, student

pytestmark = pytest.mark.unit
NAMES = ("a", "b", "c", "d")


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def means(values, *, is_share=False, is_paired=False) -> Means:
    return Means(list(values), is_share=is_share, is_paired=is_paired)


def test_the_worst_the_best_and_the_gap_are_those_of_the_means():
    values = [torch.tensor([level, level + 2.0]) for level in (3.0, 0.0, 5.0)]
    found = parity.side(means(values), NAMES[:3])
    assert (found.best, found.worst, found.gap.value) == ("c", "b", 5.0)
    assert {name: one.value for name, one in found.groups.items()} == {"a": 4.0, "b": 1.0, "c": 6.0}
    turned = parity.side(means(values), NAMES[:3], lower_is_better=True)
    assert (turned.best, turned.worst, turned.gap.value) == ("b", "c", 5.0)


def test_each_interval_is_as_wide_as_the_number_of_groups_asks():
    values = [normal(20, seed=seed) for seed in range(4)]
    found = parity.side(means(values), NAMES)
    assert found.groups["a"] == mean_of(values[0], 1 - 0.05 / 4)
    assert parity.simultaneous(6) == pytest.approx(1 - 0.05 / 6)
    pairs = [means(values).between(i, j, 1 - 0.05 / 6) for i, j in itertools.permutations(range(4), 2)]
    assert found.gap.low == max(0.0, *(one.low for one in pairs))
    assert found.gap.high == pytest.approx(max(one.high for one in pairs))


@pytest.mark.parametrize("is_paired", [False, True])
def test_intervals_of_all_groups_and_of_the_gap_hold_together(is_paired):
    """Of equal groups, where the gap that is seen is chance alone, and of unequal ones; not much oftener either."""
    for true in ((0.0,) * 4, (0.0, 0.0, 0.5, 1.5)):
        together = gaps = naive = 0
        for seed in range(160):
            common = 2 * normal(25, seed=seed + 5000) if is_paired else 0.0
            values = [level + common + normal(25, seed=4 * seed + place) for place, level in enumerate(true)]
            found = parity.side(means(values, is_paired=is_paired), NAMES)
            together += all(
                one.low <= level <= one.high for one, level in zip(found.groups.values(), true, strict=True)
            )
            gaps += found.gap.low <= max(true) - min(true) <= found.gap.high
            best, worst = (values[NAMES.index(name)] for name in (found.best, found.worst))
            naive += mean_of(best - worst).low <= max(true) - min(true)
        assert 0.92 <= together / 160 < 1
        assert gaps / 160 >= 0.95
        assert naive / 160 < 0.9 or true[-1]  # picked extremes of equal groups look different without the correction


def test_the_change_of_the_gap_holds_what_is_true():
    """From a gap of 1 to one of 2, from none to none, and between other groups than before."""
    for old, new in (((0.0, 0.5, 1.0), (-1.0, 0.5, 1.0)), ((0.0,) * 3, (0.0,) * 3), ((0.0, 0.5, 1.0), (1.0, 0.5, 0.0))):
        true, held = (max(new) - min(new)) - (max(old) - min(old)), 0
        for seed in range(60):
            before = [normal(30, seed=7 * seed + place) + level for place, level in enumerate(old)]
            now = [row + 0.3 * normal(30, seed=9000 + 7 * seed + k) + new[k] - old[k] for k, row in enumerate(before)]
            one, other = means(now), means(before)
            found = parity.change(one, other, Changes(one, other), NAMES[:3])
            gaps = [parity.side(side, NAMES[:3]).gap.value for side in (one, other)]
            assert found.gap.value == pytest.approx(gaps[0] - gaps[1])
            assert found.gap.low <= found.gap.value <= found.gap.high
            held += found.gap.low <= true <= found.gap.high
        assert held / 60 >= 0.95


def test_of_the_same_captions_what_they_share_falls_out():
    before = [normal(30, seed=1) - 4, normal(30, seed=2)]
    now = [before[0] - 1 + 0.1 * normal(30, seed=3), before[1]]
    found = parity.change(means(now), means(before), Changes(means(now), means(before)), NAMES[:2])
    assert found.gap.low > 0.9
    assert found.gap.high < 1.1


def test_a_group_that_got_worse_is_named():
    before = [normal(40, seed=1), normal(40, seed=2) - 1]
    now = [before[0], before[1] - 1.0 + 0.01 * normal(40, seed=3)]
    found = parity.change(means(now), means(before), Changes(means(now), means(before)), NAMES[:2])
    assert (found.worst, found.best) == ("b", "a")
    assert found.groups["a"].value == 0
    assert found.groups["b"].high < -0.98
    assert 0.98 < found.gap.low < found.gap.value < found.gap.high < 1.02


def test_a_difference_of_shares_is_newcombes():
    """The first row of Newcombe 1998's table II: 56/70 against 48/80, method 10."""
    found = difference(share(56, 70), share(48, 80))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    none = difference(share(10, 10), share(0, 20))
    assert (none.low, none.high) == pytest.approx((0.6791, 1.0), abs=1e-4)  # row (g): 10/10 against 0/20


def test_of_means_it_is_welchs_with_students_smaller_degrees():
    x, y = normal(30, seed=1), 3 * normal(30, seed=2)
    found = difference(mean_of(x), mean_of(y))
    half = student(29) * math.sqrt(x.var() / 30 + y.var() / 30)
    assert found.high - found.value == pytest.approx(half)


@pytest.mark.parametrize("is_paired", [True, False])
def test_few_blocks_that_agree_by_chance_show_no_gap(is_paired):
    """Two combinations of six pictures each, all groups alike: their means often agree, or differ alike."""
    generator = torch.Generator().manual_seed(0)
    alarms = 0
    for _ in range(200):
        values = [torch.rand(2, 6, generator=generator).lt(0.8).double().mean(1) for _ in range(5)]
        alarms += side(Means(values, is_share=True, is_paired=is_paired), list("abcde")).gap.low > 0
    assert alarms <= 10


def test_where_all_agree_an_interval_has_a_width():
    everyone, nobody = torch.ones(12), torch.zeros(12)
    for is_paired in (False, True):
        found = means([everyone, nobody], is_share=True, is_paired=is_paired)
        assert found.of(0, 0.95) == share(12, 12)
        assert 0.6 < found.between(0, 1, 0.95).low < 0.9
        moved = Changes(found, found)
        assert moved.of(0, 0.95).low < 0 < moved.of(0, 0.95).high
        assert moved.between(0, 1, 0.95).low < 0 < moved.between(0, 1, 0.95).high


def test_pairs_take_out_what_groups_share():
    common = 5 * normal(40, seed=1)
    values = [common, common + 0.5 + 0.1 * normal(40, seed=2)]
    assert parity.side(means(values, is_paired=True), NAMES[:2]).gap.low > 0.4
    assert parity.side(means(values), NAMES[:2]).gap.low == 0


def test_pictures_of_one_caption_count_once_and_silent_ones_not_at_all():
    values = torch.tensor([1.0, 3.0, 5.0, 7.0, float("nan"), 9.0])
    groups, blocks = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 0, 1, 2])
    found = by_group(values, groups, blocks, is_paired=False)
    assert [row.tolist() for row in found] == [[2.0, 5.0], [7.0, 9.0]]
    found = by_group(values[:5], groups[:5], blocks[:5], is_paired=True)
    assert [row.tolist() for row in found] == [[2.0], [7.0]]


def test_ninety_to_ten_is_four_tenths_from_even():
    even = {"a": 0.5, "b": 0.5}
    found = shares({"a": 900, "b": 100}, 7, even)
    assert found.distance.value == pytest.approx(0.4)
    wilson = share(900, 1000)
    assert (found.distance.low, found.distance.high) == pytest.approx((wilson.low - 0.5, wilson.high - 0.5))
    assert (found.num_unread, found.groups["b"].n) == (7, 1000)
    assert shares({"a": 9, "b": 1}, 0, {"a": 0.9, "b": 0.1}).distance.value == pytest.approx(0)
    assert shares({"a": 6, "b": 0}, 0, even).distance.high == pytest.approx(0.5)
    nothing = shares({"a": 0, "b": 0}, 5, even)
    assert (nothing.groups, nothing.distance) == ({}, None)
    assert representation.change(nothing, found) is None


def drawn_of(target: dict[str, float], n: int, seed: int) -> dict[str, int]:
    places = torch.multinomial(
        torch.tensor(list(target.values())), n, replacement=True, generator=torch.Generator().manual_seed(seed)
    )
    return dict(zip(target, torch.bincount(places, minlength=len(target)).tolist(), strict=True))


def test_its_interval_holds_what_is_true_and_chance_alone_gives_what_is_said():
    true, target = {"a": 0.6, "b": 0.3, "c": 0.1}, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    found = [shares(drawn_of(true, 60, seed), 0, target).distance for seed in range(200)]
    assert sum(one.low <= 0.8 / 3 <= one.high for one in found) / 200 >= 0.95
    at_target = [shares(drawn_of(target, 12, seed), 0, target).distance for seed in range(1000)]
    assert sum(one.value for one in at_target) / 1000 == pytest.approx(representation.by_chance(target, 12), rel=0.03)
    assert sum(one.low == 0 for one in at_target) / 1000 >= 0.9  # of 12 pictures Wilson's interval is not exact
    assert representation.by_chance({"a": 0.5, "b": 0.5}, 1) == pytest.approx(0.5)
    assert representation.by_chance({"a": 1.0, "b": 0.0}, 9) == 0


def test_a_change_of_the_distance_has_both_sides_width():
    even = {"a": 0.5, "b": 0.5}
    now, before = shares({"a": 90, "b": 10}, 0, even), shares({"a": 50, "b": 50}, 0, even)
    found = representation.change(now, before)
    assert found.value == pytest.approx(0.4)
    assert found == difference(now.distance, before.distance)
    assert 0.2 < found.low < 0.35


def test_a_group_is_found_by_its_words():
    groups = ("blue", "dark blue", "man", "fox")
    assert named_in("A dark-blue boat", groups) == "dark blue"
    assert named_in("two foxes at dawn", groups) == "fox"
    assert named_in("a woman", groups) is None
    assert named_in("a blue man", groups) is None
    assert sorted(all_named_in("a blue man in dark blue", groups)) == ["blue", "dark blue", "man"]


@pytest.mark.parametrize("groups", [["short", "shorts", "car", "cartoon"], ["shorts", "cartoon", "car", "short"]])
def test_which_group_is_found_does_not_depend_on_their_order(groups):
    assert [named_in(text, groups) for text in ("two shorts", "a short", "cars", "a cartoon")] == [
        "shorts", "short", "car", "cartoon"
    ]  # fmt: skip


def test_names_that_no_reader_finds_are_said():
    assert unreadable(["red fox", "Fox", "axe", "A-fox"]) == []
    found = unreadable(["♀", "A", "Small", "small", "large"])
    assert [line.split("'")[1] for line in found] == ["♀", "A", "Small"]
    assert "'Small' from 'small'" in found[2]


def test_every_combination_is_a_caption():
    values = {"size": ("small", "odd"), "thing": ("fox", "apple")}
    found = filled("a(n) {size} {thing}", values, "size")
    assert found == [("a small fox", 0, 0), ("a small apple", 0, 1), ("an odd fox", 1, 0), ("an odd apple", 1, 1)]
    assert filled("{thing}", {"thing": ("fox", "apple")}, "thing") == [("fox", 0, 0), ("apple", 1, 0)]
    assert slots_of("a {size} {thing} and a {thing}") == ["size", "thing"]


def seen(readings, prompts, **more) -> Seen:
    n = len(prompts)
    files = tuple(f"{place}.png" for place in range(n))
    return Seen(groups=torch.arange(n), prompts=tuple(prompts), files=files, readings=readings, **more)


def test_what_the_reader_says_is_held_against_the_group():
    grouping = Grouping(names=("small", "large"), others=("huge",), of_caption=(0, 0, 1), places=None)
    prompts = ("a small fox", "a small cat", "a large fox")
    read = ("one small cat", "a fox", "a large or huge fox")
    assert group_read(seen(read, prompts), grouping).tolist() == [1, 0, 0]
    assert group_read(seen(read, ("a fox", "a small cat", "a large fox")), grouping) is None


def test_a_group_that_drifts_from_its_pictures_is_the_worst_by_kid():
    """Features of group b are moved by 1; those of a are not. One scale serves both."""
    n, side = 14, 8
    true = normal(2 * n, side, seed=1)
    true[n:] *= 4.0  # a group of its own scale would be divided by it
    names = tuple(f"{place}.png" for place in range(2 * n))
    grouping = Grouping(names=("a", "b"), others=(), of_caption=(0,) * n + (1,) * n, places=None)

    def of(features) -> Seen:
        return seen(None, ["x"] * (2 * n), features=features, names=names)

    base = of(true + 0.1 * normal(2 * n, side, seed=2))
    moved = base.features.clone()
    moved[n:] += 4.0
    judge = Extractor(kind="k", name="judge", version="", features=lambda pictures: torch.zeros(0), is_scaled=False)
    (found,) = parities(base, of(moved), of(true), judge, grouping)
    assert (found.metric, found.adapted.worst, found.change.worst) == ("kid", "b", "b")
    assert found.adapted.gap.low > 0
    assert found.change.gap.low > 0
    assert found.change.groups["a"].value == pytest.approx(0, abs=1e-12)
    size = true.square().mean().sqrt()  # of all groups
    expected = distances.kid(true[n:] / size, moved[n:] / size)
    assert found.adapted.groups["b"].value == pytest.approx(expected.value)


def record(values, before=None, **more) -> Fairness:
    """Of two groups paired, by what a reader sees."""
    prompts = [f"a {name} {thing}" for name in ("small", "large") for thing in range(20)]
    grouping = Grouping(
        names=("small", "large"), others=(), of_caption=(0,) * 20 + (1,) * 20, places=tuple(range(20)) * 2
    )

    def of(shares_read) -> Seen:
        said = [
            f"a {name} thing" if place < round(20 * part) else "a thing"
            for name, part in zip(("small", "large"), shares_read, strict=True)
            for place in range(20)
        ]
        return seen(tuple(said), prompts)

    reader = Extractor(kind="captioner", name="reader", version="", read=lambda pictures: [], takes_distances=False)
    found = parities(of(before or values), of(values), None, reader, grouping)
    trained = {"small": 10, "large": 90}
    groups = {name: Group(num_captions=20, num_given=20, num_trained=number) for name, number in trained.items()}
    facts = {
        "adapter": "x", "by": "size", "is_column": True, "is_balanced": False, "num_images": 1, "origin": "a template",
        "groups": groups, "parities": tuple(found), "representation": None,
    }  # fmt: skip
    return Fairness(**{**facts, **more})


def test_it_is_said_in_words():
    worse = record((0.2, 1.0), (1.0, 1.0))
    assert worse.words().startswith(
        "Pictures of 'small' follow their captions worst. Its group is what the reader sees: 20% against 100% of"
    )
    assert "Without the adapter the gap is 0 points: the adapter made it larger." in worse.words()
    assert worse.advice()[-1].startswith("--balance size makes every group count alike")
    assert not any("--balance" in line for line in record((0.2, 1.0), is_balanced=True).advice())
    same = record((0.2, 1.0))
    assert "that the adapter changed it is not shown" in same.words()
    assert "The base has the gap already" in same.advice()[0]
    assert "the adapter made it smaller" in record((1.0, 1.0), (0.2, 1.0)).words()
    equal = record((1.0, 1.0))
    assert "No group's pictures follow their captions worse" in equal.headline()
    assert f"{100 * equal.following[0].adapted.gap.high:.0f} points (group read)" in equal.headline()
    assert equal.trained == {"small": 0.1, "large": 0.9}
    read = shares({"small": 5, "large": 95}, 0, {"small": 0.5, "large": 0.5})
    even = shares({"small": 50, "large": 50}, 0, {"small": 0.5, "large": 0.5})
    drawn = representation.Representation(
        reader="r", prompts=("a fox",), n=100, target_name="uniform", target={"small": 0.5, "large": 0.5},
        base=even, adapted=read, change=representation.change(read, even), by_chance=0.04,
    )  # fmt: skip
    said = dataclasses.replace(equal, representation=drawn).words()
    assert said.endswith("from these prompts that ask for no group, 95% is 'large'; without it 50%.")
    assert equal.advice() == []  # it is rare, and nothing is worse for it
    assert dataclasses.replace(equal, representation=drawn).advice()[0].startswith("'small' is the rarest")
    assert record((1.0, 1.0), (1.0, 1.0)).worse_off == frozenset()
    assert Interval(0.1, 0.0, 0.2, 3).text("{:.1f}")
