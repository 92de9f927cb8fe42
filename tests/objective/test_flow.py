"""The straight path of flow models: its maths, how times are drawn, and what they weigh."""

import math
import types

import pytest
import scipy.stats
import torch
from diffusers.training_utils import compute_loss_weighting_for_sd3

from pipeline.objective.objective import Objective
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import RectifiedFlow, VariancePreserving
from pipeline.objective.timesteps import ConstantShift, beta, build_density, logit_normal, mode, shifted, uniform
from pipeline.objective.weighting import CosMap, InverseSquare, SNRWeights, Uniform, build_weighting

pytestmark = pytest.mark.reference
U = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000


@pytest.mark.parametrize(
    ("mean", "first", "second"), [(0.0, 0.5, 0.293379), (-0.5, 0.397973, 0.198986), (0.5, 0.602027, 0.403041)]
)
def test_moments_of_the_logit_normal(mean, first, second):
    t = logit_normal(mean, 1.0)(U)
    assert t.mean().item() == pytest.approx(first, abs=1e-5)
    assert t.square().mean().item() == pytest.approx(second, abs=1e-5)


def test_a_mean_above_zero_means_more_noise():
    """diffusers' scripts look the density up in a descending list of timesteps, which turns it round."""
    t = logit_normal(1.0, 1.0)(U)
    assert torch.logit(t).mean().item() == pytest.approx(1.0, abs=1e-3)


def test_a_shift_adds_its_logarithm_to_the_logit():
    t = logit_normal(1.0, 1.0)(U)
    assert torch.logit(shifted(t, 3.0)).mean().item() == pytest.approx(1.0 + math.log(3.0), abs=1e-3)
    assert torch.equal(shifted(U, 1.0), U)


def test_deciles_of_the_mode_density():
    t = mode(1.29)(U)
    counts = torch.histc(t.float(), 10, 0, 1) / len(U) * 10
    expected = torch.tensor([0.466, 0.544, 0.686, 0.998, 2.305])
    torch.testing.assert_close(counts, torch.cat([expected, expected.flip(0)]), atol=0.01, rtol=0)


@pytest.mark.parametrize(("a", "b"), [(2.0, 2.0), (1.0, 3.0), (0.5, 0.5), (0.7, 4.0), (30.0, 2.0)])
def test_beta_is_scipys(a, b):
    torch.testing.assert_close(
        beta(a, b)(U), torch.from_numpy(scipy.stats.beta.ppf(U.numpy(), a, b)), atol=1e-6, rtol=0
    )


def test_limits_hold_whatever_the_density_and_shift():
    path = RectifiedFlow(logit_normal(0.0, 1.0), ConstantShift(3.0), limits=(0.2, 0.7))
    t = path.time(U, 1)
    assert 0.2 <= t.min() < 0.25
    assert 0.65 < t.max() <= 0.7
    inner = (t - 0.2) / 0.5
    torch.testing.assert_close(
        inner, RectifiedFlow(logit_normal(0.0, 1.0), ConstantShift(3.0)).time(U, 1), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    "options", [{}, {"weighting_scheme": "logit_normal", "logit_mean": 1.0}, {"min_timestep": 900}]
)
def test_a_discrete_schedule_is_drawn_from_by_a_density_too(options):
    wanted = ObjectiveOptions(**options)
    path = VariancePreserving(
        torch.linspace(0.99, 0.01, 1000), "epsilon", build_density(wanted, usual="none"), wanted.limits
    )
    index = path.index(path.time(U, 1))
    assert index.max() < 1000
    density = logit_normal(1.0, 1.0) if options.get("weighting_scheme") else uniform
    low = options.get("min_timestep", 0)
    expected = low + (1000 - low) * density(U).mean().item() - 0.5
    assert index.double().mean().item() == pytest.approx(expected, abs=0.1)
    assert path.time(torch.tensor([1.0], dtype=torch.float64), 1) <= path.last + 1e-7
    assert torch.equal(path.validation_time(U), VariancePreserving(path.alphas_cumprod, "epsilon").time(U, 1))


@pytest.mark.parametrize(
    "density", [uniform, logit_normal(0.3, 0.7), mode(1.29), mode(-1.0), mode(1.75), beta(2.0, 5.0)]
)
def test_a_density_rises_with_its_number_and_stays_in_the_unit_interval(density):
    t = density(torch.cat([torch.zeros(1, dtype=torch.float64), U]))
    assert (t.diff() >= 0).all()
    assert t.min() >= 0
    assert t.max() <= 1


def test_weights_are_diffusers_own():
    sigma = torch.tensor([0.01, 0.2, 0.5, 0.9, 0.999], dtype=torch.float64)
    log_snr = 2 * torch.log((1 - sigma) / sigma)
    for scheme, weighting in (("cosmap", CosMap()), ("sigma_sqrt", InverseSquare())):
        torch.testing.assert_close(weighting(log_snr), compute_loss_weighting_for_sd3(scheme, sigma), check_dtype=False)
    t = U
    assert CosMap()(2 * torch.log((1 - t) / t)).mean().item() == pytest.approx(1.0, abs=1e-5)
    for weighting in (CosMap(), InverseSquare()):
        assert weighting(torch.tensor([float("inf"), float("-inf")])).isfinite().all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Uniform()),
        ({"weighting_scheme": "logit_normal"}, Uniform()),
        ({"weighting_scheme": "mode"}, Uniform()),
        ({"weighting_scheme": "cosmap"}, CosMap()),
        ({"weighting_scheme": "sigma_sqrt"}, InverseSquare()),
        ({"loss_weighting": "min_snr"}, SNRWeights("min_snr", 5.0, "flow")),
    ],
)
def test_a_scheme_is_either_a_density_or_a_weight(options, expected):
    path = RectifiedFlow(uniform, ConstantShift(1.0))
    assert build_weighting(ObjectiveOptions(**options), path, 1) == expected
    is_even = torch.equal(build_density(ObjectiveOptions(**options), usual="logit_normal")(U), U)
    assert is_even == (options.get("weighting_scheme") in ("cosmap", "sigma_sqrt"))


def test_the_best_velocity_of_gaussian_data_carries_noise_back_to_the_data():
    """With x_0 ~ N(0, s^2) the best answer is known; 1000 Euler steps of it must end with deviation s."""
    deviation, steps = 0.6, 1000
    z = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for step in range(steps):
        t = 1 - step / steps
        best = (t - (1 - t) * deviation**2) / ((1 - t) ** 2 * deviation**2 + t**2)
        z = z - best * z / steps
    assert z.std().item() == pytest.approx(deviation, abs=0.01)


def test_the_target_is_what_that_velocity_estimates():
    """Regression of the target on z_t gives the closed form, so path and target belong together."""
    deviation, path = 0.6, RectifiedFlow(uniform, ConstantShift(1.0))
    generator = torch.Generator().manual_seed(1)
    x_0 = torch.randn(200_000, 1, 1, 1, generator=generator) * deviation
    noise = torch.randn(x_0.shape, generator=generator)
    for t in (0.1, 0.5, 0.9):
        noised = path.sample(x_0, noise, torch.full((len(x_0),), t))
        slope = (noised.x_t * noised.target).mean() / noised.x_t.square().mean()
        best = (t - (1 - t) * deviation**2) / ((1 - t) ** 2 * deviation**2 + t**2)
        assert slope.item() == pytest.approx(best, abs=0.01)
        assert noised.log_snr[0].item() == pytest.approx(2 * math.log((1 - t) / t), abs=1e-5)
        torch.testing.assert_close(path.split(noised.target, noised.x_t, noised.t), (x_0, noise), atol=1e-5, rtol=1e-4)


def test_measured_levels_are_even_whatever_is_trained():
    path = RectifiedFlow(logit_normal(2.0, 1.0), ConstantShift(3.0))
    u = torch.tensor([0.125, 0.375, 0.625, 0.875], dtype=torch.float64)
    assert torch.equal(path.validation_time(u), u.float())
    assert (path.time(u, 0) > u).all()


@pytest.mark.parametrize(
    ("options", "is_flow", "named"),
    [
        ({"snr_gamma": 5.0, "noise_offset": 0.1}, True, ["noise_offset", "snr_gamma"]),
        (
            {"weighting_scheme": "cosmap", "logit_mean": 1.0, "timestep_shift": 3.0},
            False,
            ["weighting_scheme", "timestep_shift", "logit_mean"],
        ),
        ({"weighting_scheme": "mode", "beta_a": 3.0}, True, ["beta_a"]),
        ({"weighting_scheme": "mode", "mode_scale": 1.0}, False, []),
        ({"weighting_scheme": "beta", "beta_a": 3.0}, False, []),
        ({"snr_gamma": 5.0, "loss_weighting": "p2"}, True, []),
        ({"logit_std": 0.5}, True, []),
        ({"multires_noise_iterations": 6}, True, ["multires_noise_iterations"]),
        ({"snr_gamma": 5.0}, False, []),
    ],
)
def test_what_has_no_meaning_for_a_model_is_named(options, is_flow, named):
    said = ObjectiveOptions(**options).clashes(is_flow=is_flow)
    assert [sentence.split()[0] for sentence in said] == [f"--{name}" for name in named]


def test_a_flow_learns_its_velocity_not_the_data_behind_it():
    """diffusers' SD3 script compares x_t - sigma v with x_0 unless it is told otherwise: sigma^2 times this loss."""
    generator = torch.Generator().manual_seed(3)
    x_0, noise, off = torch.randn(3, 4, 2, 4, 4, generator=generator)
    t = torch.tensor([0.1, 0.4, 0.7, 0.9])
    batch = types.SimpleNamespace(latents=x_0, noise=noise, perturbed=None, mask=None, weights=None, u=t.double())

    class Off:
        def __call__(self, x_t, t, conditioning):
            return noise - x_0 + off

        base = __call__

        def num_tokens(self, latents):
            return 1

    path = RectifiedFlow(uniform, ConstantShift(1.0))
    loss = Objective(path, Uniform())(Off(), batch, None)
    torch.testing.assert_close(loss, off.square().mean((1, 2, 3)))
    data = path.split(noise - x_0 + off, path.sample(x_0, noise, t).x_t, t)[0]
    torch.testing.assert_close((data - x_0).square().mean((1, 2, 3)), t.square() * loss)
