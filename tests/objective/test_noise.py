"""Noise with more in it than a normal number for each place: moments, and that no example depends on another."""

import math

import pytest
import torch

from pipeline import rng
from pipeline.objective.noise import noise_of, perturbed
from pipeline.objective.noise_options import NoiseOptions
from pipeline.objective.options import ObjectiveOptions

pytestmark = pytest.mark.reference
SHAPE = (4, 8, 8)


def many(options, count=600):
    return torch.stack([noise_of(options, 0, 0, f"example {number}", SHAPE) for number in range(count)])


def test_offset_noise_moves_whole_channels():
    noise = many(NoiseOptions(noise_offset=0.1))
    assert noise.std().item() == pytest.approx(math.sqrt(1 + 0.1**2), abs=0.01)
    assert noise.mean((2, 3)).std().item() == pytest.approx(0.16008, abs=0.006)


def test_pyramid_noise_is_coarser_and_keeps_its_deviation_example_by_example():
    plain, pyramid = many(NoiseOptions()), many(NoiseOptions(multires_noise_iterations=6, multires_noise_discount=0.8))
    torch.testing.assert_close(pyramid.std((1, 2, 3)), torch.ones(600), atol=1e-5, rtol=0)
    means = [noise.mean((2, 3)).std().item() for noise in (plain, pyramid)]
    assert means[0] == pytest.approx(1 / 8, abs=0.01)
    assert means[1] > 2 * means[0]
    neighbours = [(noise[..., 1:] * noise[..., :-1]).mean().item() for noise in (plain, pyramid)]
    assert abs(neighbours[0]) < 0.01
    assert neighbours[1] > 0.2
    again = noise_of(NoiseOptions(multires_noise_iterations=6, multires_noise_discount=0.8), 0, 0, "example 7", SHAPE)
    assert torch.equal(again, pyramid[7])


def test_each_coarser_scale_counts_less_than_the_one_before_by_the_same_share():
    """What the second scale adds counts by the discount's square, 0.01, and no more by the discount itself."""
    seed = next(n for n in range(99) if rng.uniform(n, 0, "a", "coarser 1") < 0.4)  # so a second scale is left
    first, both = (
        noise_of(NoiseOptions(multires_noise_iterations=count, multires_noise_discount=0.1), seed, 0, "a", (4, 16, 16))
        for count in (1, 2)
    )
    share = (both * first).sum() / first.square().sum()
    added = (both - share * first).square().mean().sqrt() / share
    assert 0.001 < added < 0.03


def test_without_options_noise_is_what_it_was():
    assert torch.equal(noise_of(NoiseOptions(), 3, 2, "a", SHAPE), rng.normal(3, 2, "a", "noise", SHAPE))
    assert perturbed(NoiseOptions(), torch.zeros(SHAPE), 0, 0, "a") is None


def test_input_perturbation_adds_noise_that_is_not_in_the_target():
    noise = many(NoiseOptions())
    seen = torch.stack(
        [perturbed(NoiseOptions(input_perturbation=0.5), row, 0, 0, str(k)) for k, row in enumerate(noise)]
    )
    assert seen.std().item() == pytest.approx(math.sqrt(1 + 0.5**2), abs=0.01)
    assert ((seen - noise) * noise).mean().abs() < 0.01


def test_two_ways_to_the_same_thing_are_one_too_many():
    assert "the same thing" in ObjectiveOptions(noise_offset=0.1, multires_noise_iterations=6).problems()[0]
    assert "has an effect only" in ObjectiveOptions(multires_noise_discount=0.5).problems()[0]
