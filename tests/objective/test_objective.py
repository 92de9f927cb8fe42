import pytest
import torch
from diffusers import DDPMScheduler

from pipeline.objective.losses import squared_error
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import VariancePreserving
from pipeline.objective.weighting import MinSNR, Uniform, build_weighting

pytestmark = pytest.mark.reference
SCHEDULES = {"sd": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
             "cosine": {"beta_schedule": "squaredcos_cap_v2"},
             "zero": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
                      "rescale_betas_zero_snr": True}}  # fmt: skip


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_path_is_diffusers_own(name, prediction):
    scheduler = DDPMScheduler(**SCHEDULES[name])
    path = VariancePreserving(scheduler.alphas_cumprod, prediction)
    x_0, noise = torch.randn(5, 3, 4, 6), torch.randn(5, 3, 4, 6)
    index = torch.tensor([0, 1, 499, 998, 999])
    noised = path.sample(x_0, noise, index / 1000)
    torch.testing.assert_close(noised.x_t, scheduler.add_noise(x_0, noise, index))
    expected = noise if prediction == "epsilon" else scheduler.get_velocity(x_0, noise, index)
    torch.testing.assert_close(noised.target, expected)
    back = path.split(noised.target, noised.x_t, noised.t)
    known = slice(4 if prediction == "epsilon" else 5)  # at the last index noise alone says nothing of the data
    torch.testing.assert_close([part[known] for part in back], [x_0[known], noise[known]], atol=1e-3, rtol=1e-3)


def test_min_snr_at_sd_betas_has_the_known_means():
    signal = DDPMScheduler(**SCHEDULES["sd"]).alphas_cumprod.double()
    log_snr = torch.log(signal) - torch.log1p(-signal)
    assert MinSNR(5.0, "epsilon")(log_snr).mean().item() == pytest.approx(0.91657, abs=1e-5)
    assert MinSNR(5.0, "v_prediction")(log_snr).mean().item() == pytest.approx(0.29433, abs=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_weights_are_finite_where_nothing_of_the_data_is_left(prediction):
    weights = MinSNR(5.0, prediction)(torch.tensor([float("-inf"), -20.0, 0.0, 20.0]))
    assert torch.isfinite(weights).all()
    assert weights[0] == (1 if prediction == "epsilon" else 0)


def test_weights_carry_the_same_loss_over_both_targets():
    """w_eps L_eps = w_v L_v for one and the same denoiser."""
    x_0, noise = torch.randn(4, 2, 8, 8).double(), torch.randn(4, 2, 8, 8).double()
    signal = torch.tensor([0.9, 0.5, 0.2, 0.01]).double()
    alpha, sigma = signal.sqrt()[:, None, None, None], (1 - signal).sqrt()[:, None, None, None]
    v = alpha * noise - sigma * x_0
    guess = v + 0.1 * torch.randn_like(v)
    guess_noise = sigma * (alpha * x_0 + sigma * noise) + alpha * guess
    log_snr = torch.log(signal / (1 - signal))
    left = MinSNR(5.0, "epsilon")(log_snr) * (guess_noise - noise).square().mean((1, 2, 3))
    right = MinSNR(5.0, "v_prediction")(log_snr) * (guess - v).square().mean((1, 2, 3))
    torch.testing.assert_close(left, right)


def test_without_gamma_everything_weighs_one():
    assert isinstance(build_weighting(ObjectiveOptions(), "epsilon"), Uniform)
    assert (build_weighting(ObjectiveOptions(), "epsilon")(torch.tensor([1.0, -3.0])) == 1).all()
    assert build_weighting(ObjectiveOptions(snr_gamma=5.0), "v_prediction") == MinSNR(5.0, "v_prediction")


def test_the_error_is_per_example_and_in_float32():
    target = torch.tensor([0.0, 3.0])[:, None, None, None].expand(2, 1, 2, 2)
    error = squared_error(torch.ones(2, 1, 2, 2, dtype=torch.bfloat16), target)
    assert error.dtype == torch.float32
    assert error.tolist() == [1.0, 4.0]
