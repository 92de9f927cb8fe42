"""Guidance on pure noise, with models in closed form: one knows a single picture for a caption, one a distribution."""

import dataclasses

import pytest
import torch
from diffusers import DDPMScheduler

from pipeline import rng
from pipeline.evaluation import memorisation, on_noise
from pipeline.evaluation.on_noise import HIGH, LOW, NUM_NOISES, known, lengths_and_angles
from pipeline.evaluation.validation import LossEvaluator, ValidationExample
from pipeline.objective.paths import DiffusionPath, RectifiedFlow, VariancePreserving
from pipeline.objective.timesteps import ConstantShift, uniform

pytestmark = pytest.mark.unit
SHAPE = (4, 6, 5)
ALPHAS = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
PATHS = {
    "epsilon": VariancePreserving(ALPHAS, "epsilon"),
    "v_prediction": VariancePreserving(ALPHAS, "v_prediction"),
    "flow": RectifiedFlow(uniform, ConstantShift(1.0)),
}
CAPTIONS = {None: 0.0, "a picture": 1.0, "many pictures": 2.0}
NOISES = torch.stack([rng.normal(0, number, "", "pure noise", SHAPE) for number in range(NUM_NOISES)])
PICTURE, MEAN = (torch.full(SHAPE, value) for value in (0.1, 0.7))


def coefficients(path: DiffusionPath, t: float) -> tuple[float, float]:
    """alpha and sigma of x_t = alpha x_0 + sigma noise."""
    if isinstance(path, RectifiedFlow):
        return 1 - t, t
    signal = ALPHAS[round(1000 * t)].item()
    return signal**0.5, (1 - signal) ** 0.5


class Exact:
    """The best predictor where any picture is from N(0, 1), those of one caption are PICTURE, of another N(MEAN, 1)."""

    def __init__(self, path: DiffusionPath, picture: torch.Tensor = PICTURE) -> None:
        self.path, self.picture = path, picture

    def __call__(self, x, t, conditioning):
        rows = []
        for one, time, code in zip(x, t.tolist(), conditioning["prompt_embeds"].flatten().tolist(), strict=True):
            alpha, sigma = coefficients(self.path, time)
            gain = alpha / (alpha**2 + sigma**2)  # of the mean of x_0 in x_t
            data = [gain * one, self.picture, MEAN + gain * (one - alpha * MEAN)][round(code)]
            noise = (one - alpha * data) / sigma
            kinds = {"epsilon": noise, "v_prediction": alpha * noise - sigma * data, "flow": noise - data}
            rows.append(kinds[self.path.prediction])
        return torch.stack(rows)


def evaluator(path: DiffusionPath, batch_size: int = 8) -> LossEvaluator:
    return LossEvaluator(
        path=path, prompts=lambda caption: {"prompt_embeds": torch.tensor([[CAPTIONS[caption]]])}, ragged="pad",
        batch_size=batch_size, device=torch.device("cpu"), dtype=torch.float32,
    )  # fmt: skip


def example(caption: str, shape: tuple[int, ...] = SHAPE) -> ValidationExample:
    return ValidationExample(caption, torch.zeros(shape), torch.zeros(shape), caption, {})


BOTH = [example("a picture"), example("many pictures")]


@pytest.mark.parametrize("name", PATHS)
def test_length_and_angle_are_those_of_the_closed_form(name):
    path = PATHS[name]
    found = lengths_and_angles(evaluator(path), Exact(path), BOTH)
    alpha, sigma = coefficients(path, HIGH)
    power = alpha**2 + sigma**2
    lengths = [(PICTURE - alpha / power * x).norm().item() for x in NOISES]
    assert found[0, 0].item() == pytest.approx(sum(lengths) / NUM_NOISES, rel=1e-3)
    assert found[1, 0].item() == pytest.approx(sigma**2 / power * MEAN.norm().item(), rel=1e-3)
    alpha, sigma = coefficients(path, LOW)
    gain = alpha / (alpha**2 + sigma**2)
    cosine = torch.nn.functional.cosine_similarity  # the unconditional score points where -x does
    assert found[0, 1].item() == pytest.approx(cosine(-NOISES, PICTURE - gain * NOISES, dim=1).mean().item(), abs=1e-3)
    assert found[1, 1].item() == pytest.approx(cosine(-NOISES, MEAN[None], dim=1).mean().item(), abs=1e-3)
    assert found[0, 1] > 0.9 > 0.1 > found[1, 1].abs()


@pytest.mark.parametrize("name", PATHS)
def test_to_a_picture_of_nothing_guidance_points_as_the_score_does(name):
    found = lengths_and_angles(evaluator(PATHS[name]), Exact(PATHS[name], torch.zeros(SHAPE)), BOTH)
    assert found[0, 1].item() == pytest.approx(1, abs=1e-5)


def test_neither_batches_nor_other_sizes_change_it():
    def predict(x, t, conditioning):
        return x + conditioning["prompt_embeds"].flatten()[:, None, None, None] * t[:, None, None, None]

    path, mixed = PATHS["v_prediction"], [BOTH[0], example("a picture", (4, 3, 5)), BOTH[1]]
    whole = lengths_and_angles(evaluator(path), predict, mixed)
    torch.testing.assert_close(whole, lengths_and_angles(evaluator(path, 3), predict, mixed))
    torch.testing.assert_close(whole[1:2], lengths_and_angles(evaluator(path), predict, mixed[1:2]))
    assert whole[0, 0] > whole[1, 0]  # there is less of a smaller picture


def test_captions_whose_picture_was_learnt_are_told_from_others():
    path = PATHS["epsilon"]
    learnt, other = lengths_and_angles(evaluator(path), Exact(path, MEAN), BOTH)
    change = torch.linspace(0, 0.005, 20)[:, None].double()  # what else a change of the adapter does
    before = other + change
    now = torch.cat([(learnt + change)[:10], before[10:] + change[10:]])
    told = known(now, before)
    assert memorisation.auc(told[:10], told[10:]).value == 1
    assert known(before, before).tolist() == [0.0] * 20  # of an adapter that does nothing
    wide = torch.tensor([[100.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert known(wide, torch.zeros(3, 2))[0] == pytest.approx(known(wide, torch.zeros(3, 2))[1].item())  # no unit wins


def test_the_levels_are_those_of_the_authors_code():
    """The first and the third last of 50 steps of 1000, which their scheduler places at 981 and 41."""
    assert [round(1000 * level, -1) for level in (HIGH, LOW)] == [980, 40]
    assert on_noise.SEED == 0


def test_each_caption_is_asked_with_what_is_told_of_its_size_and_so_is_the_unconditional():
    path, asked = PATHS["flow"], []

    def predict(x, t, conditioning):
        pairs = (conditioning[name].flatten().tolist() for name in ("prompt_embeds", "told"))
        asked.extend(zip(*pairs, strict=True))
        return x

    told = [
        dataclasses.replace(one, size={"told": torch.tensor([size])})
        for one, size in zip(BOTH, (3.0, 5.0), strict=True)
    ]
    lengths_and_angles(evaluator(path), predict, told)
    times = 2 * NUM_NOISES
    assert asked == [(0.0, 3.0)] * times + [(1.0, 3.0)] * times + [(0.0, 5.0)] * times + [(2.0, 5.0)] * times
