"""Guidance in the target, on Gaussian data: there the best prediction is linear, and where training ends is known."""

import types

import pytest
import torch

from pipeline.objective.guided import GuidedTarget
from pipeline.objective.guided_options import GuidedOptions
from pipeline.objective.objective import Beside, Objective
from pipeline.objective.paths import VariancePreserving
from pipeline.objective.weighting import Uniform

pytestmark = pytest.mark.reference
SIGNAL = 0.4  # alpha^2 of the one noise level that is trained on
PATH = VariancePreserving(torch.tensor([SIGNAL]), "epsilon")
NUM, BASE = 2000, torch.tensor([[0.6, 0.0], [0.2, 0.9]])  # slope and offset: without a condition, and for a wrong one


class LinearDenoiser:
    """a x + b for each condition: 0 none, 1 the caption, 2 a wrong caption. The base knows 0 and 2."""

    def __init__(self) -> None:
        self.lines = torch.nn.Parameter(torch.zeros(3, 2))
        with torch.no_grad():
            self.lines[0], self.lines[2] = BASE[0], BASE[1]

    def __call__(self, x_t, t, conditioning):
        slope, offset = self.lines[conditioning].unbind(1)
        return slope[:, None, None, None] * x_t + offset[:, None, None, None]

    def base(self, x_t, t, conditioning):
        slope, offset = BASE[conditioning // 2].unbind(1)
        return slope[:, None, None, None] * x_t + offset[:, None, None, None]

    def num_tokens(self, latents):
        return 1


def batch_of(num_unconditional=0):
    """Data of the condition: mean 2 and deviation 0.5; of none, mean 0 and deviation 1.5."""
    generator = torch.Generator().manual_seed(0)
    noise, own, other = torch.randn(3, NUM, 1, 1, 1, generator=generator)
    is_none = torch.arange(NUM) < num_unconditional
    latents = torch.where(is_none[:, None, None, None], 1.5 * other, 2 + 0.5 * own)
    batch = types.SimpleNamespace(
        latents=latents, noise=noise, perturbed=None, mask=None, weights=None, u=torch.zeros(NUM, dtype=torch.float64)
    )
    return batch, (~is_none).long()


def learnt(guided, scale, beside_of=0, num_unconditional=0):
    """The lines at which nothing moves any more. The gradient is linear in them, so it is solved for, not trained."""
    batch, conditioning = batch_of(num_unconditional)
    objective, other = Objective(PATH, Uniform(), guided=guided), torch.full((NUM,), beside_of)
    scales = torch.where(conditioning == 0, 1.0, scale)
    trained = [0, 1] if num_unconditional else [1]

    def gradient(lines):
        denoiser = LinearDenoiser()
        denoiser.lines.data[trained] = lines.view(-1, 2)
        beside = Beside(other=other, scales=scales) if guided is not None else None
        objective(denoiser, batch, conditioning, beside).mean().backward()
        return denoiser.lines.grad[trained].flatten()

    start = torch.zeros(2 * len(trained))
    steps = torch.stack([gradient(unit) - gradient(start) for unit in torch.eye(len(start))], dim=1)
    lines = BASE.new_zeros(3, 2)
    lines[[0, 2]] = BASE
    lines[trained] = torch.linalg.solve(steps.double(), -gradient(start).double()).float().view(-1, 2)
    return lines


@pytest.mark.parametrize(("w", "against"), [(0.5, "base"), (0.75, "base"), (0.5, "live")])
def test_model_guidance_ends_at_the_scale_1_over_1_minus_w(w, against):
    share = NUM // 3 if against == "live" else 0
    plain = learnt(None, 1.0, num_unconditional=share)
    none = plain[0] if against == "live" else BASE[0]
    found = learnt(GuidedTarget("model_guidance", against), 1 / (1 - w), num_unconditional=share)
    torch.testing.assert_close(found[1], none + (plain[1] - none) / (1 - w), atol=2e-3, rtol=0)
    assert (found[1] - plain[1]).abs().max() > 0.3  # and that is not where it ends without
    torch.testing.assert_close(found[0], plain[0] if share else BASE[0], atol=1e-4, rtol=0)  # captions alone are guided


@pytest.mark.parametrize("scale", [1.0, 2.0, 4.0])
def test_the_cfg_target_ends_at_its_scale_which_falls_with_the_noise(scale):
    plain = learnt(None, 1.0)
    found = learnt(GuidedTarget("cfg", "base"), scale)
    sigma, alpha = (1 - SIGNAL) ** 0.5, SIGNAL**0.5
    at_level = 1 + (scale - 1) * sigma / (alpha + sigma)
    torch.testing.assert_close(found[1], BASE[0] + at_level * (plain[1] - BASE[0]), atol=1e-3, rtol=0)
    target = GuidedTarget("cfg", "base")
    ends = target.scale_at(torch.full((2,), scale), torch.tensor([float("-inf"), float("inf")]))
    assert ends.tolist() == [scale, 1.0]


def test_the_contrastive_target_ends_away_from_the_wrong_caption():
    """lambda 0.05 is the scale 1.0526 of the paper; its loss is |v - u|^2 - lambda |v - n|^2 but for a constant."""
    plain = learnt(None, 1.0)
    for share in (0.05, 0.5):
        found = learnt(GuidedTarget("contrastive", "base"), 1 / (1 - share), beside_of=2)
        torch.testing.assert_close(found[1], BASE[1] + (plain[1] - BASE[1]) / (1 - share), atol=2e-3, rtol=0)
    value, target, wrong = torch.randn(3, 5, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    scales, guided = torch.full((5,), 1 / (1 - 0.3)), GuidedTarget("contrastive", "base")
    value.requires_grad_()
    away = (value - target).square() - 0.3 * (value - wrong).square()
    learnt_target = guided(target, value, wrong, scales, torch.zeros(5))
    ours = (value - learnt_target).square() * guided.weight(scales)[:, None, None, None]
    gradients = [torch.autograd.grad(loss.sum(), value)[0] for loss in (away, ours)]
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("kind", ["model_guidance", "cfg", "contrastive"])
def test_scale_1_is_the_datas_own_target_and_guidance_can_be_taken_out(kind):
    guided, log_snr = GuidedTarget(kind, "base"), torch.tensor([-3.0, 0.0, 4.0])
    target, other = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(guided(target, torch.zeros_like(target), other, torch.ones(3), log_snr), target)
    full = torch.full((3,), 2.5)
    end = other + guided.scale_at(full, log_snr)[:, None, None, None] * (target - other)
    torch.testing.assert_close(guided.unguided(end, other, 2.5, log_snr), target)
    if kind == "model_guidance":  # whose target moves with the prediction: its end is its own target
        torch.testing.assert_close(guided(target, end, other, full, log_snr), end)


def test_what_has_no_effect_or_burns_is_refused():
    idle = GuidedOptions(guided_target_scale=3.0, guided_target_against="base").problems()
    assert [line.split()[0] for line in idle] == ["--guided_target_scale", "--guided_target_against"]
    assert "between 1 and 5" in GuidedOptions(guided_target="cfg", guided_target_scale=6.0).problems()[0]
    assert GuidedOptions(guided_target="cfg", guided_target_scale=5.0).problems() == []
    assert "leave --guided_target out" in GuidedOptions(guided_target="cfg", guided_target_scale=1.0).problems()[0]
