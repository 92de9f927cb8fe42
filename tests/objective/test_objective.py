import pytest
import torch
from diffusers import DDPMScheduler

from pipeline.objective.losses import Huber, huber_error, squared_error
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import VariancePreserving
from pipeline.objective.timesteps import build_density
from pipeline.objective.weighting import GAMMAS, SNRWeights, Uniform, build_weighting

pytestmark = pytest.mark.reference
SCHEDULES = {"sd": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
             "cosine": {"beta_schedule": "squaredcos_cap_v2"},
             "zero": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
                      "rescale_betas_zero_snr": True}}  # fmt: skip


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_path_is_diffusers_own(name, prediction):
    scheduler = DDPMScheduler(**SCHEDULES[name])
    path = VariancePreserving(scheduler.alphas_cumprod, prediction)
    x_0, noise = torch.randn(5, 3, 4, 6), torch.randn(5, 3, 4, 6)
    index = torch.tensor([0, 1, 499, 998, 999])
    noised = path.sample(x_0, noise, index / 1000)
    torch.testing.assert_close(noised.x_t, scheduler.add_noise(x_0, noise, index))
    expected = {"epsilon": noise, "v_prediction": scheduler.get_velocity(x_0, noise, index), "sample": x_0}[prediction]
    torch.testing.assert_close(noised.target, expected)
    back = path.split(noised.target, noised.x_t, noised.t)
    known = slice(4 if prediction == "epsilon" else 5)  # at the last index noise alone says nothing of the data
    torch.testing.assert_close([part[known] for part in back], [x_0[known], noise[known]], atol=1e-3, rtol=1e-3)


def test_min_snr_at_sd_betas_has_the_known_means():
    signal = DDPMScheduler(**SCHEDULES["sd"]).alphas_cumprod.double()
    log_snr = torch.log(signal) - torch.log1p(-signal)
    assert SNRWeights("min_snr", 5.0, "epsilon")(log_snr).mean().item() == pytest.approx(0.91657, abs=1e-5)
    assert SNRWeights("min_snr", 5.0, "v_prediction")(log_snr).mean().item() == pytest.approx(0.29433, abs=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
@pytest.mark.parametrize("kind", GAMMAS)
def test_weights_are_finite_at_every_noise_level(kind, prediction):
    weights = SNRWeights(kind, 5.0, prediction)(torch.tensor([float("-inf"), -20.0, 0.0, 20.0, float("inf")]))
    assert torch.isfinite(weights).all()
    assert (weights[0] > 0) == (prediction == "epsilon")  # pure noise says nothing of the data


def test_the_end_of_a_schedule_of_pure_noise_is_trained_on():
    """diffusers' scripts weigh it 0 where the model predicts v, and 0 / 0 where it predicts noise."""
    end = torch.tensor([float("-inf")])
    for prediction, expected in (("epsilon", 1.0), ("v_prediction", 1.0), ("sample", 1.0)):
        path = VariancePreserving(DDPMScheduler(**SCHEDULES["zero"]).alphas_cumprod, prediction)
        assert build_weighting(ObjectiveOptions(snr_gamma=5.0), path, 1)(end).item() == expected
    plain = VariancePreserving(DDPMScheduler(**SCHEDULES["sd"]).alphas_cumprod, "v_prediction")
    assert build_weighting(ObjectiveOptions(snr_gamma=5.0), plain, 1) == SNRWeights("min_snr", 5.0, "v_prediction")


@pytest.mark.parametrize("kind", GAMMAS)
def test_one_denoiser_has_one_loss_whatever_it_predicts(kind):
    """Errors of one guess of the data, as noise, v, data and velocity, come to one loss."""
    generator = torch.Generator().manual_seed(0)
    x_0, noise, off = (torch.randn(4, 2, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    t = torch.tensor([0.1, 0.4, 0.6, 0.95], dtype=torch.float64)
    log_snr = 2 * torch.log((1 - t) / t)
    alpha, sigma = (
        torch.sigmoid(log_snr).sqrt()[:, None, None, None],
        torch.sigmoid(-log_snr).sqrt()[:, None, None, None],
    )
    x_t, guess, far = alpha * x_0 + sigma * noise, x_0 + 0.1 * off, t[:, None, None, None]
    as_noise = (x_t - alpha * guess) / sigma
    errors = {
        "epsilon": as_noise - noise,
        "v_prediction": (alpha * as_noise - sigma * guess) - (alpha * noise - sigma * x_0),
        "sample": guess - x_0,
        "flow": ((1 - far) * x_0 + far * noise - guess) / far - (noise - x_0),
    }
    losses = [
        SNRWeights(kind, GAMMAS[kind], prediction)(log_snr) * error.square().mean((1, 2, 3))
        for prediction, error in errors.items()
    ]
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-4, atol=0)
    on_data = {
        "min_snr": log_snr.exp().clamp(max=5),
        "soft_min_snr": 5 * log_snr.exp() / (log_snr.exp() + 5),
        "p2": log_snr.exp() / (1 + log_snr.exp()),
        "debiased": (log_snr / 2).exp(),
    }
    torch.testing.assert_close(SNRWeights(kind, GAMMAS[kind], "sample")(log_snr), on_data[kind])


def test_without_gamma_everything_weighs_one():
    path = VariancePreserving(DDPMScheduler(**SCHEDULES["sd"]).alphas_cumprod, "epsilon")
    assert isinstance(build_weighting(ObjectiveOptions(), path, 1), Uniform)
    assert (build_weighting(ObjectiveOptions(), path, 1)(torch.tensor([1.0, -3.0])) == 1).all()
    for options, expected in (
        ({"snr_gamma": 3.0}, SNRWeights("min_snr", 3.0, "epsilon")),
        ({"loss_weighting": "p2"}, SNRWeights("p2", 1.0, "epsilon")),
        ({"loss_weighting": "soft_min_snr", "snr_gamma": 2.0}, SNRWeights("soft_min_snr", 2.0, "epsilon")),
    ):
        assert build_weighting(ObjectiveOptions(**options), path, 1) == expected


def test_normalized_weights_are_1_over_the_times_that_are_trained_on():
    signal, u = DDPMScheduler(**SCHEDULES["sd"]).alphas_cumprod, (torch.arange(5000).double() + 0.5) / 5000
    for options in ({"snr_gamma": 5.0}, {"loss_weighting": "p2", "weighting_scheme": "beta", "max_timestep": 600}):
        wanted = ObjectiveOptions(**options, normalize_weights=True)
        path = VariancePreserving(signal, "v_prediction", build_density(wanted, usual="none"), wanted.limits)
        weights = build_weighting(wanted, path, 1)(path.log_snr(path.time(u, 1)))
        assert weights.mean().item() == pytest.approx(1.0, abs=1e-3)
        assert weights.std() > 0.1


@pytest.mark.parametrize(
    ("schedule", "expected"), [("exponential", [1.0, 0.31623, 0.10023]), ("snr", [0.94971, 0.23128, 0.10369])]
)
def test_the_bend_of_huber_falls_as_published(schedule, expected):
    signal = DDPMScheduler(**SCHEDULES["sd"]).alphas_cumprod.double()
    path, t = VariancePreserving(signal, "epsilon"), torch.tensor([0.0, 0.5, 0.999])
    assert Huber(0.1, schedule).at(t, path.log_snr(t)).tolist() == pytest.approx(expected, abs=2e-5)
    assert Huber(0.1, schedule).at(torch.ones(1), torch.tensor([float("-inf")])).item() == pytest.approx(0.1)
    assert Huber(0.1, "constant").at(t, path.log_snr(t)).tolist() == pytest.approx([0.1] * 3)


def test_huber_is_a_square_for_small_errors_and_a_line_for_large_ones():
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(2, 1, 4, 4, generator=generator) for _ in range(2))
    square, size = squared_error(prediction, target), (prediction - target).abs().mean((1, 2, 3))
    torch.testing.assert_close(huber_error(prediction, target, torch.full((2,), 1e3)), square, rtol=1e-4, atol=0)
    small = torch.full((2,), 1e-4)
    torch.testing.assert_close(huber_error(prediction, target, small), 2 * 1e-4 * size, rtol=1e-3, atol=0)
    tiny = torch.full((1, 1, 1, 1), 0.01)  # 2 c (sqrt(d^2 + c^2) - c) as it is written is 0 here
    assert huber_error(tiny, torch.zeros_like(tiny), torch.tensor([1e3])).item() == pytest.approx(1e-4)
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, :2] = 1
    half = huber_error(prediction[:, :, :2], target[:, :, :2], small)
    torch.testing.assert_close(huber_error(prediction, target, small, mask), half)


def test_the_error_is_per_example_and_in_float32():
    target = torch.tensor([0.0, 3.0])[:, None, None, None].expand(2, 1, 2, 2)
    error = squared_error(torch.ones(2, 1, 2, 2, dtype=torch.bfloat16), target)
    assert error.dtype == torch.float32
    assert error.tolist() == [1.0, 4.0]
