"""Guidance on Gaussians, whose deviation has a closed form, through stock schedulers.

With p(x|c) = N(0, s_c^2) and p(x) = N(0, s_u^2), CFG turns a deviation at noise level a into one at b < a by the factor

    ((s_c^2 + b^2) / (s_c^2 + a^2))^(w/2) ((s_u^2 + b^2) / (s_u^2 + a^2))^((1-w)/2),

in the units of Karras et al. 2022. From infinite noise to none that is s_c (s_c / s_u)^(w-1): diversity falls
geometrically with the scale, and less if only some levels are guided.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from pipeline.sampling.guided import Traits, guided
from pipeline.sampling.options import GuidanceOptions

pytestmark = pytest.mark.reference
CAPTION, NONE = 0.5, 1.0
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


class Gaussian(nn.Module):
    """The best prediction there is for Gaussian data; its deviation is what it is told for a caption."""

    def __init__(self, scheduler) -> None:
        super().__init__()
        self.scheduler, self.rows = scheduler, 0

    def noise_over_signal(self, timestep: Tensor) -> float:
        if isinstance(self.scheduler, EulerDiscreteScheduler):
            return float(self.scheduler.sigmas[self.scheduler.step_index or 0])
        if isinstance(self.scheduler, DDIMScheduler):
            signal = float(self.scheduler.alphas_cumprod[int(timestep)])
            return math.sqrt(1 / signal - 1)
        return float(timestep) / (1000 - float(timestep)) if timestep < 1000 else 1e12

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor]:
        self.rows += len(sample)
        ratio, is_flow = self.noise_over_signal(timestep), isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler)
        alpha = 1 / (1 + ratio) if is_flow else 1 / math.sqrt(1 + ratio**2)
        sigma, variance = ratio * alpha, encoder_hidden_states[:, :, None, None] ** 2
        data = alpha * variance * sample / (alpha**2 * variance + sigma**2)
        noise = (sample - alpha * data) / sigma
        return (noise - data if is_flow else noise,)


def factor(high: float, low: float, scale: float) -> float:
    caption, none = ((s**2 + low**2) / (s**2 + high**2) for s in (CAPTION, NONE))
    return caption ** (scale / 2) * none ** ((1 - scale) / 2)


def law(start: float, largest: float, scale: float, interval: tuple[float, float]) -> float:
    low, high = interval[0], min(interval[1], largest)
    return start * factor(largest, high, 1) * factor(high, low, scale) * factor(low, 0, 1)


def drawn(scheduler, guidance: GuidanceOptions, scale: float, steps: int) -> tuple[float, Gaussian]:
    """What becomes of unit noise, as a stock pipeline draws: the field is linear, so this is the deviation."""
    denoiser = Gaussian(scheduler)
    told = torch.tensor([[NONE], [CAPTION]], dtype=torch.float64)
    scheduler.set_timesteps(steps)
    latents = torch.ones(1, 1, 1, 1, dtype=torch.float64) * getattr(scheduler, "init_noise_sigma", 1.0)
    pipe = SimpleNamespace(scheduler=scheduler)
    with guided(pipe, denoiser, guidance, scale, seeds=[0], traits=Traits(), weaker=None) as asked:
        for timestep in scheduler.timesteps:
            both = torch.cat([latents, latents])
            if hasattr(scheduler, "scale_model_input"):
                both = scheduler.scale_model_input(both, timestep)
            other, cond = denoiser(both, timestep, encoder_hidden_states=told)[0].chunk(2)
            latents = scheduler.step(other + asked * (cond - other), timestep, latents)[0]
    return float(latents), denoiser


def kinds() -> dict:
    """Schedulers, each with the largest noise over signal and where unit noise starts in these units."""
    ddim = DDIMScheduler(**BETAS, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True)
    euler = EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing", use_karras_sigmas=True)
    flow = FlowMatchEulerDiscreteScheduler()
    largest = math.sqrt(1 / float(ddim.alphas_cumprod[-1]) - 1)
    return {
        "flow": (flow, 1e12, 1e12),
        "ddim": (ddim, largest, math.sqrt(1 + largest**2)),
        "euler": (euler, largest, largest),
    }


@pytest.mark.parametrize(
    ("name", "scale", "interval", "steps"),
    [
        ("flow", 4.0, "0,inf", 1000),
        ("flow", 4.0, "0.3,3", 1000),
        ("ddim", 2.0, "0,inf", 500),
        ("ddim", 2.0, "0.3,3", 500),
        ("euler", 2.0, "0.3,3", 500),
    ],
)
def test_the_deviation_is_that_of_the_law(name, scale, interval, steps):
    scheduler, largest, start = kinds()[name]
    guidance = GuidanceOptions(guidance_interval=interval)
    expected = law(start, largest, scale, guidance.interval)
    found, _ = drawn(scheduler, guidance, scale, steps)
    assert found == pytest.approx(expected, rel=0.02)


def test_only_guided_steps_cost_two_evaluations():
    scheduler = FlowMatchEulerDiscreteScheduler()
    _, everything = drawn(scheduler, GuidanceOptions(guidance_interval="0,inf"), 3.0, 20)
    _, some = drawn(scheduler, GuidanceOptions(guidance_interval="0.3,3"), 3.0, 20)
    levels = scheduler.sigmas[:-1] / (1 - scheduler.sigmas[:-1])
    assert everything.rows == 40
    assert some.rows == 20 + int(((levels > 0.3) & (levels <= 3)).sum()) < 35
