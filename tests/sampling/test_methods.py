"""Guidance on tensors: the identities of each method, what it is made of, and what is refused."""

import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from pipeline.evaluation import snippet
from pipeline.families.sd import StableDiffusion
from pipeline.objective.paths import RectifiedFlow, VariancePreserving
from pipeline.objective.timesteps import ConstantShift, uniform
from pipeline.sampling.conditions import annealed, noise_for, signal_at
from pipeline.sampling.levels import Level, level_at
from pipeline.sampling.methods import Point, combination
from pipeline.sampling.options import GuidanceOptions

pytestmark = pytest.mark.unit
VP = [Level(0.6, 0.8, 0.5, prediction) for prediction in ("epsilon", "v_prediction", "sample")]
LEVELS = [*VP, Level(0.3, 0.7, 0.7, "flow")]
APG = {"guidance_method": "apg", "apg_momentum": 0.0}


def tensors(count: int = 3, shape: tuple[int, ...] = (2, 4, 6, 6)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def point(level: Level, step: int = 5) -> Point:
    return Point(tensors(4)[3], level, step)


def guided(scale: float, level: Level = LEVELS[0], **options: object) -> torch.Tensor:
    cond, other = tensors(2)
    return combination(GuidanceOptions(**options), scale)(cond, other, point(level))


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.prediction)
def test_apg_that_projects_nothing_is_cfg(level):
    cond, other = tensors(2)
    plain = other + 4.0 * (cond - other)
    assert torch.equal(guided(4.0, level, **APG, apg_eta=1.0), plain)
    nearly = guided(4.0, level, **APG, apg_eta=1.0, apg_norm=1e6)  # which takes the long way
    assert torch.allclose(nearly, plain, atol=1e-4)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.prediction)
def test_apg_moves_the_data_only_across_itself(level):
    cond, _ = tensors(2)
    found = guided(4.0, level, **APG)
    data = level.data(cond, point(level).x_t)
    moved = level.data(found, point(level).x_t) - data
    assert moved.flatten(1).norm(dim=1).min() > 1
    assert torch.cosine_similarity(moved.flatten(1), data.flatten(1)).abs().max() < 1e-4


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.prediction)
def test_apg_goes_no_further_than_its_norm_times_the_scale(level):
    cond, _ = tensors(2)
    found = guided(4.0, level, **APG, apg_eta=1.0, apg_norm=2.5)
    moved = level.data(found, point(level).x_t) - level.data(cond, point(level).x_t)
    assert torch.allclose(moved.flatten(1).norm(dim=1), torch.tensor(7.5), rtol=1e-4)


def test_apg_takes_earlier_steps_off_and_forgets_them_at_the_next_draw():
    cond, other = tensors(2)
    options = GuidanceOptions(guidance_method="apg", apg_eta=1.0, apg_momentum=-0.5)
    combine, level = combination(options, 3.0), LEVELS[3]
    first, second = (combine(cond, other, point(level, step)) for step in (0, 1))
    assert torch.allclose(first - cond, 2 * (cond - other), atol=1e-4)
    assert torch.allclose(second - cond, (cond - other), atol=1e-4)  # half of what was added before is gone
    assert torch.equal(combination(options, 3.0)(cond, other, point(level, 0)), first)


@pytest.mark.parametrize("method", ["cfg", "apg", "cfg_zero_star"])
def test_scale_one_is_the_captions_own_prediction(method):
    assert torch.allclose(guided(1.0, guidance_method=method), tensors(1)[0], atol=1e-5)


def test_cfg_zero_star_of_parallel_predictions_is_the_captions():
    cond, _ = tensors(2)
    combine = combination(GuidanceOptions(guidance_method="cfg_zero_star"), 6.0)
    factors = torch.tensor([0.5, -3.0])[:, None, None, None]  # of each picture
    assert torch.allclose(combine(cond, factors * cond, point(LEVELS[3])), cond, atol=1e-4)
    assert not combine(cond, cond, point(LEVELS[3], step=0)).any()


def test_cfg_zero_star_scales_by_the_whole_picture():
    cond, other = tensors(2)
    fit = (cond * other).sum((1, 2, 3), keepdim=True) / (other * other).sum((1, 2, 3), keepdim=True)
    expected = fit * other + 4 * (cond - fit * other)
    assert torch.allclose(guided(4.0, LEVELS[3], guidance_method="cfg_zero_star"), expected, atol=1e-4)


def test_rescaling_gives_back_the_deviation_of_the_captions_prediction():
    cond, _ = tensors(2)
    full, half, none = (guided(5.0, guidance_rescale=share) for share in (1.0, 0.5, 0.0))
    assert torch.allclose(full.std((1, 2, 3)), cond.std((1, 2, 3)))
    assert none.std() > 2 * cond.std()
    assert torch.allclose(half, (full + none) / 2, atol=1e-5)


def test_where_a_method_says_nothing_rescaling_says_nothing_too():
    cond, other = tensors(2)
    method = combination(GuidanceOptions(guidance_method="cfg_zero_star", guidance_rescale=0.7), 5.0)
    assert not method(cond, other, point(LEVELS[3], step=0)).any()
    assert method(cond, other, point(LEVELS[3], step=5)).isfinite().all()


def test_captions_are_as_written_near_the_data_and_noise_near_noise():
    states = 3 + 2 * torch.randn(2, 300, 40, generator=torch.Generator().manual_seed(1))
    noise = noise_for([7, 8], 0, "encoder_hidden_states", states)
    assert [signal_at(time) for time in (0.0, 0.6, 0.75, 0.9, 1.0)] == pytest.approx([1, 1, 0.5, 0, 0])
    assert annealed(states, 0.6, 0.2, noise) is states
    assert annealed(states, 0.9, 0.0, noise) is states
    lost = annealed(states, 0.95, 0.2, noise)
    assert torch.allclose(lost.mean((1, 2)), states.mean((1, 2)), atol=1e-4)
    assert torch.allclose(lost.std((1, 2)), states.std((1, 2)), atol=1e-4)
    unlike = torch.cosine_similarity((lost - 3).flatten(1), (states - 3).flatten(1))
    assert unlike.abs().max() < 0.05
    half = annealed(states, 0.75, 0.2, noise)
    assert torch.cosine_similarity((half - 3).flatten(1), (states - 3).flatten(1)).min() > 0.9


def test_a_pictures_noise_is_its_own():
    together = noise_for([7, 8], 3, "text_embeds", torch.empty(2, 5))
    assert torch.equal(together[1:], noise_for([8], 3, "text_embeds", torch.empty(1, 5)))
    others = [noise_for([8], step, name, torch.empty(1, 5)) for step, name in ((4, "text_embeds"), (3, "pooled"))]
    assert not any(torch.equal(together[1:], other) for other in others)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
def test_a_level_says_of_the_data_what_a_path_of_training_says(prediction):
    x_0, noise = tensors(2)
    if prediction == "flow":
        path = RectifiedFlow(uniform, ConstantShift(1.0))
        level = Level(0.25, 0.75, 0.75, "flow")
    else:
        path = VariancePreserving(torch.linspace(0.99, 0.01, 100), prediction)
        signal = float(path.alphas_cumprod[75])
        level = Level(math.sqrt(signal), math.sqrt(1 - signal), 0.75, prediction)
    sample = path.sample(x_0, noise, torch.full((2,), 0.75))
    assert torch.allclose(level.data(sample.target, sample.x_t), x_0, atol=1e-4)
    moved = level.data(sample.target + 1, sample.x_t) - level.data(sample.target, sample.x_t)
    assert torch.allclose(moved, torch.tensor(level.slope), atol=1e-4)


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULERS = {
    "ddim": DDIMScheduler(**BETAS, prediction_type="v_prediction"),
    "pndm": PNDMScheduler(**BETAS, skip_prk_steps=True),
    "euler": EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing", use_karras_sigmas=True),
    "dpm": DPMSolverMultistepScheduler(**BETAS),
    "flow": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "dpm-flow": DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_schedulers_step_is_known_by_its_noise(name):
    """Against what the scheduler itself makes of data and noise at that timestep."""
    scheduler = SCHEDULERS[name]
    scheduler.set_timesteps(8)
    for step in (0, 3, 7):
        level, timestep = level_at(scheduler, step), scheduler.timesteps[step : step + 1]
        one, none = torch.ones(1), torch.zeros(1)
        if name == "flow":
            alpha, sigma = (
                float(scheduler.scale_noise(*pair)) for pair in ((one, timestep, none), (none, timestep, one))
            )
        else:
            alpha, sigma = (float(scheduler.add_noise(*pair, timestep)) for pair in ((one, none), (none, one)))
        assert level.ratio == pytest.approx(sigma / alpha if alpha else math.inf, rel=1e-4)
        whole = level.alpha + level.sigma if "flow" in name else math.hypot(level.alpha, level.sigma)
        assert whole == pytest.approx(1)
        assert level.time == pytest.approx(float(timestep) / 1000)
        assert level.prediction == {"ddim": "v_prediction", "flow": "flow", "dpm-flow": "flow"}.get(name, "epsilon")


def test_options_say_what_is_wrong_with_them():
    wrong = GuidanceOptions(
        guidance_method="cfg_zero_star", guidance_against="base", guidance_interval="5,1", apg_eta=0.5, apg_norm=0.0
    )
    said = "\n".join(wrong.problems())
    for words in ("the lower first", "--apg_norm is 0", "--apg_eta has an effect only", "--guidance_against base"):
        assert words in said
    for text in ("1", "a,b", "-1,2", "1,nan", "1,2,3"):
        assert GuidanceOptions(guidance_interval=text).problems()
    assert GuidanceOptions(guidance_interval="0.3,inf").interval == (0.3, math.inf)
    assert GuidanceOptions(guidance_interval="0.3,inf").problems() == GuidanceOptions().problems() == []


def test_options_say_what_a_model_has_no_use_for():
    def said(options: GuidanceOptions, **facts: bool) -> str:
        usual = {"has_null": True, "is_flow": False, "can_perturb": False, "renormalises": False}
        return "\n".join(options.clashes("this", **{**usual, **facts}))

    distilled = said(GuidanceOptions(guidance_rescale=0.7, cads_scale=0.1), has_null=False)
    assert "--guidance_rescale: this was distilled" in distilled
    assert "--cads_scale: this was distilled" in distilled
    assert "is for flows" in said(GuidanceOptions(guidance_method="cfg_zero_star"))
    assert not said(GuidanceOptions(guidance_method="cfg_zero_star"), is_flow=True)
    assert "first step" in said(GuidanceOptions(guidance_method="cfg_zero_star"), is_flow=True, renormalises=True)
    assert "norms anyway" in said(GuidanceOptions(guidance_rescale=0.7), renormalises=True)
    assert not said(GuidanceOptions(guidance_rescale=0.7, guidance_against="base"), renormalises=True)
    assert "no plain self-attention" in said(GuidanceOptions(guidance_against="perturbed"))
    assert not said(GuidanceOptions(guidance_against="perturbed"), can_perturb=True)
    assert not said(GuidanceOptions(), has_null=False)


@pytest.mark.parametrize(
    "values",
    [
        {"guidance_method": "apg\nimport os"},
        {"guidance_against": "base", "cads_scale": "exit()"},
        {"guidance_method": "apg", "apg_norm": "exit()"},
        {"guidance_interval": 3},
        {"guidance_interval": "3,1"},
    ],
)
def test_what_a_file_says_that_is_no_guidance_becomes_no_code(values):
    """Not as a value out of its bounds, and not as one of another kind, which only a file can hold."""
    options = object.__new__(GuidanceOptions)
    vars(options).update({**vars(GuidanceOptions()), **values})
    assert not options.is_sound
    assert snippet.code(options, 3.0, 1, StableDiffusion) == ""
    assert "guided" in snippet.code(GuidanceOptions(guidance_method="apg"), 3.0, 1, StableDiffusion)


def test_what_is_recorded_is_enough_to_draw_again():
    assert GuidanceOptions().facts == {}
    options = GuidanceOptions(guidance_method="apg", guidance_interval="0.3,3")
    assert options.facts == {
        "guidance_method": "apg", "guidance_against": "unconditional", "guidance_interval": "0.3,3",
        "apg_eta": 0.0, "apg_momentum": -0.5,
    }  # fmt: skip
    assert GuidanceOptions.of({**options.facts, "seed": 3}) == options
    assert GuidanceOptions.of(vars(SimpleNamespace(guidance_method="cfg", other=1))).is_usual
