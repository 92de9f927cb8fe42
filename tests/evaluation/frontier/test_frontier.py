"""Fronts on points whose law is known: Gaussians under guidance fall on one curve, and tricks do not beat it."""

import math

import pytest
import torch

from pipeline.evaluation.frontier.choice import chosen
from pipeline.evaluation.frontier.curve import Curve, area, at_matched_diversity
from pipeline.evaluation.frontier.points import Point, front, surely_beaten

pytestmark = pytest.mark.reference


def point(adherence, diversity, num=40, noise=0.05, seed=0):
    """Captions differ much, and the same way in every setting, as with equal seeds; settings differ little."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(2, num, generator=generator, dtype=torch.float64)
    own = noise * torch.randn(2, num, generator=generator.manual_seed(seed + 1), dtype=torch.float64)
    return Point(adherence + shared[0] + own[0], diversity + shared[1] + own[1])


def test_what_is_beaten_beyond_chance_is_told_from_what_is_not():
    points = [point(1.0, 1.0, seed=1), point(0.9, 0.9, seed=2), point(1.2, 0.8, seed=3), point(1.0, 1.0, seed=4)]
    assert surely_beaten(points) == [False, True, False, False]
    apart = [*points, point(1.4, 2.0, seed=9)]  # beats all but the most faithful, unless it is no rival
    assert surely_beaten(apart) == [True, True, True, True, False]
    assert surely_beaten(apart, [True] * 4 + [False]) == [False, True, False, False, False]
    few = [found.at(torch.arange(2)) for found in points]
    assert surely_beaten(few) == [False] * 4  # two captions prove nothing


def test_equal_settings_are_seldom_dropped():
    """Six settings that are one, two hundred times: at most five rounds in a hundred drop any."""
    dropped = sum(
        any(surely_beaten([point(0.0, 0.0, num=12, seed=6 * time + k) for k in range(6)])) for time in range(200)
    )
    assert dropped <= 10


def test_the_front_goes_from_the_diverse_to_the_faithful():
    points = [(1.0, 1.0), (2.0, 2.0), (3.0, 1.0), (1.0, 3.0), (3.0, 1.0), (0.0, 3.0), (2.5, 0.5)]
    assert front(points) == [3, 1, 2]
    assert front(points[:1]) == [0]


def gaussian(scales, gain=1.0):
    """Guidance w on Gaussians of deviation 1/2 within a caption and 1 over all: diversity (1/2)^w."""
    return [point(gain * math.log(w + 1), 0.5**w, noise=1e-4, seed=k) for k, w in enumerate(scales)]


def test_a_curve_passes_through_its_points_and_its_area_is_the_integral():
    points = gaussian([1, 2, 3, 4])
    means = [p.means for p in points]
    curve = Curve(means)
    for adherence, diversity in means:
        assert curve.at(torch.tensor([diversity])).item() == pytest.approx(adherence)
    low, high = curve.range
    places = torch.linspace(low, high, 100_001, dtype=torch.float64)
    assert curve.mean(low, high) == pytest.approx(curve.at(places).mean().item(), abs=1e-5)
    assert curve.at(torch.tensor([low - 1, high + 1])).tolist() == [
        curve.adherence[0].item(),
        curve.adherence[-1].item(),
    ]
    found = area(points, low, high)
    assert found.value == pytest.approx(curve.mean(low, high))
    assert found.low < found.value < found.high
    assert found.n == 40


def test_two_runs_on_one_curve_do_not_differ_at_matched_diversity_and_a_better_one_does():
    """Other scales are other places on the same curve: compared at equal scale the second would look better."""
    one, same = gaussian(torch.linspace(1, 4, 25).tolist()), gaussian(torch.linspace(1.5, 6, 25).tolist())
    found, (low, high) = at_matched_diversity(one, same)
    assert found.value == pytest.approx(0.0, abs=2e-3)
    assert (low, high) == (one[-1].means[1], same[0].means[1])
    better = gaussian(torch.linspace(1.5, 6, 25).tolist(), gain=1.1)
    found, _ = at_matched_diversity(better, one)
    assert found.low > 0.05
    with pytest.raises(ValueError, match="in common"):
        at_matched_diversity([point(0, 0)], [point(0, 5)])


def test_three_points_are_named():
    scales = [1.0, 1.5, 2.0, 3.0, 5.0, 8.0]
    means = [p.means for p in gaussian(scales)]
    found = chosen([*means, (means[2][0] - 0.1, means[2][1] - 0.1)])
    assert (found["faithful"], found["diverse"]) == (5, 0)
    assert found["balanced"] in (2, 3)
    assert chosen([(1.0, 1.0)]) == {"faithful": 0, "balanced": 0, "diverse": 0}
    assert chosen([(3.0, 1.0), (2.0, 2.0), (2.9, 1.9)])["balanced"] == 2
