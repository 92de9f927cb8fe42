"""How the starter base is made: the loop resumes, the autoencoder starts as a linear codec, pools are what they say."""

import dataclasses
import functools
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline import shipped
from pipeline.starter import world
from pipeline.starter.build import autoencoder, denoiser, fitting, linear_start, parts, plans, pool, quick

pytestmark = pytest.mark.unit
font = pytest.mark.skipif(not world.FONT.exists(), reason="needs fonts-noto-color-emoji")
PLAN = fitting.Fit("toy", 60, 4, 0.01, warmup_steps=5, ema_decay=0.9)


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(2, 3, 3)
        self.out = torch.nn.Linear(3, 1)

    def forward(self, x):
        return self.out(self.conv(x).mean((2, 3)))


def loss_of(module, step, stop_at=None):
    if step == stop_at:
        raise KeyboardInterrupt
    x = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(step))
    return (module(x)[:, 0] - x.mean((1, 2, 3))).square().mean(), {"size": x.square().mean()}


def test_a_training_that_was_cut_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "SAVE_EVERY_SECONDS", 0.0)
    whole, cut, again = Toy(), Toy(), Toy()
    fitting.fit(PLAN, whole, functools.partial(loss_of, whole), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fitting.fit(PLAN, cut, lambda step: loss_of(cut, step, stop_at=33), tmp_path / "cut")
    fitting.fit(PLAN, again, functools.partial(loss_of, again), tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    assert not any(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), Toy().state_dict().values(), strict=True)
    )


def test_the_rate_falls_to_zero_by_steps_or_by_the_clock():
    rates = [PLAN.learning_rate_at(step, step / 60) for step in range(61)]
    assert rates[0] == pytest.approx(0.002)
    assert rates[5:48] == pytest.approx([0.01] * 43)
    assert rates[60] == 0
    assert PLAN.learning_rate_at(30, 0.9) == pytest.approx(0.005)  # half of the decay is behind it


def test_a_training_ends_by_the_clock_that_earlier_sessions_count_for(tmp_path, monkeypatch):
    hours = iter(range(0, 10**9, 3600))
    monkeypatch.setattr(fitting.time, "monotonic", lambda: float(next(hours)))  # an hour between any two looks at it
    plan = dataclasses.replace(PLAN, num_steps=2000, seconds=3600.0 * 20)
    first, second = Toy(), Toy()
    fitting.fit(plan, first, functools.partial(loss_of, first), tmp_path)
    step, seconds = fitting_state(tmp_path)
    assert 3 < step < 20
    assert seconds >= plan.seconds
    fitting.fit(plan, second, functools.partial(loss_of, second), tmp_path)
    assert fitting_state(tmp_path)[0] == step  # the time is over, also for a second session


def fitting_state(folder) -> tuple[int, float]:
    with safe_open(PLAN.state_in(folder), framework="pt") as file:
        return int(file.metadata()["step"]), float(file.metadata()["seconds"])


def test_a_gradient_that_is_not_finite_ends_the_training_before_it_touches_a_weight(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "SAVE_EVERY_SECONDS", 0.0)
    module = Toy()

    def sometimes(step: int):
        loss, extra = loss_of(module, step)
        return loss * float("nan" if step == 7 else 1), extra

    with pytest.raises(RuntimeError, match="non-finite"):
        fitting.fit(PLAN, module, sometimes, tmp_path)
    assert all(value.isfinite().all() for value in load_file(PLAN.state_in(tmp_path)).values())


def test_a_step_in_half_precision_leaves_the_gradient_of_a_step_in_full():
    unet = parts.load_denoiser().requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    x_t, target = (torch.randn(2, 4, 32, 32, generator=generator) for _ in range(2))
    given = (x_t, torch.tensor([10, 900]), torch.randn(2, parts.MAX_TOKENS, parts.WIDTH, generator=generator), target)
    whole = (unet(*given[:3]).sample - target).square().mean()
    whole.backward()
    wanted = torch.cat([value.grad.flatten() for value in unet.parameters()])
    unet.zero_grad()
    loss = quick.InHalf(unet).learn(*given)
    found = torch.cat([value.grad.flatten() for value in unet.parameters()])
    assert not loss.requires_grad
    assert loss.item() == pytest.approx(whole.item(), rel=0.01)
    assert torch.cosine_similarity(found, wanted, dim=0) > 0.999
    assert all(value.dtype == value.grad.dtype == torch.float32 for value in unet.parameters())


def test_an_autoencoder_that_starts_as_a_linear_codec_gives_what_the_codec_gives():
    torch.manual_seed(0)
    codec, model = linear_start.LinearCodec(parts.LEVELS, parts.LATENT_CHANNELS), parts.build_autoencoder()
    linear_start.start(model, codec)
    pictures = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        latents = codec.encode(pictures)
        drawn = codec.decode(latents)
        pairs = ((model.encode(pictures).latent_dist.mean, latents), (model.decode(latents).sample, drawn))
        for found, wanted in pairs:
            assert (found - wanted).norm() / wanted.norm() < 0.03


def test_what_is_held_stays_held_while_all_else_learns():
    torch.manual_seed(0)
    model = parts.build_autoencoder()
    linear_start.start(model, linear_start.LinearCodec(parts.LEVELS, parts.LATENT_CHANNELS))
    linear_start.keep_held(model)
    model(torch.rand(1, 3, 16, 16)).sample.square().mean().backward()
    conv, norm = model.encoder.down_blocks[0].downsamplers[0].conv, model.encoder.conv_norm_out
    assert (
        conv.weight.grad[-2:].abs().max()
        == conv.weight.grad[:, -2:].abs().max()
        == norm.weight.grad[-2:].abs().max()
        == 0
    )
    assert conv.weight.grad[:-2, :-2].abs().max() > 0
    assert model.encoder.conv_out.weight.grad[:, :-2].abs().max() > 0


def test_a_pass_shows_every_example_once_and_the_next_in_another_order():
    ground = plans.Ground(torch.device("cpu"), share=0.002)
    steps = ground.num_examples("denoiser") // ground.plan("denoiser").batch
    first, second = (
        torch.cat([plans.order(ground, "denoiser", step) for step in range(n * steps, (n + 1) * steps)]) for n in (0, 1)
    )
    assert torch.equal(first.sort().values, torch.arange(ground.num_examples("denoiser")))
    assert torch.equal(second.sort().values, first.sort().values)
    assert not torch.equal(first, second)


@font
def test_pictures_rendered_side_by_side_are_those_rendered_alone(monkeypatch):
    monkeypatch.setattr(pool, "CHUNK", 3)
    pictures, captions = pool.rendered(functools.partial(denoiser.example, 4), 5, 12)
    alone = [denoiser.example(4, index) for index in range(5, 12)]
    assert captions == [caption for _, caption in alone]
    assert all(np.array_equal(a, np.asarray(b)) for a, (b, _) in zip(pictures, alone, strict=True))
    values = pool.to_values(torch.from_numpy(pictures), torch.device("cpu"))
    assert torch.equal(values[0], torch.from_numpy(world.to_array(alone[0][0])))


@font
def test_the_compact_form_decodes_to_the_same_pictures_from_even_latents():
    """What ships is compact already: made compact again it must give the same pictures."""
    there = parts.load_autoencoder()
    found = autoencoder.compacted(there.requires_grad_(True), plans.Ground(torch.device("cpu"), share=0.01, seed=3))
    pictures = torch.from_numpy(np.stack([world.to_array(scene.image()) for scene in world.held_out_scenes(3, 6)]))
    with torch.no_grad():
        before = there.decode(there.encode(pictures).latent_dist.mean).sample
        latents = found.encode(pictures).latent_dist.mean
        assert (found.decode(latents).sample - before).abs().max() < 1e-3
    spread = latents.std((0, 2, 3))
    assert spread.max() / spread.min() < 4


def test_mirrored_turned_and_recoloured_pictures_keep_their_values():
    pictures = torch.rand(16, 3, 4, 4)
    found = autoencoder.varied(pictures, torch.Generator().manual_seed(1))
    assert torch.equal(found.flatten(1).sort().values, pictures.flatten(1).sort().values)
    assert sum(not torch.equal(a, b) for a, b in zip(found, pictures, strict=True)) > 8
    flat = torch.arange(3.0).view(1, 3, 1, 1).expand(256, 3, 4, 4)
    orders = {tuple(row.tolist()) for row in autoencoder.varied(flat, torch.Generator().manual_seed(1))[:, :, 0, 0]}
    assert len(orders) == 6  # every order of the channels, and most often
    assert (0.0, 1.0, 2.0) in orders  # their own


def test_what_ships_names_no_place_of_the_machine_it_was_made_on():
    configs = [path for path in shipped.STARTER.rglob("*.json") if path.name != "tokenizer.json"]
    assert len(configs) >= 6
    assert not [path for path in configs if re.search(r'_name_or_path|"/\w', path.read_text(encoding="utf-8"))]


@font
@pytest.mark.slow
def test_a_small_share_of_the_build_runs_through_and_leaves_what_ships_alone(tmp_path):
    """Every stage from the command line, at a few steps each; the base that comes out opens with the plain lines."""
    before = {path: path.stat().st_mtime_ns for path in shipped.STARTER.rglob("*") if path.suffix != ".pyc"}
    command = [sys.executable, "-m", "pipeline.starter.build", "--work", str(tmp_path), "--share", "0.0002"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "starter" / "base")
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a large fox", num_inference_steps=1).images[0].size == (64, 64)
    made = {path.relative_to(tmp_path / "starter").as_posix() for path in (tmp_path / "starter").rglob("*")}
    assert made >= {"judge/judge.safetensors", "vision/text_projection.safetensors", "base/OFL.txt", "dataset/train"}


@font
def test_latents_of_another_autoencoder_are_not_taken_for_its_own(tmp_path):
    ground = plans.Ground(torch.device("cpu"), share=1e-6)
    one = parts.load_autoencoder()
    first, captions = denoiser.encode_pool(tmp_path, one, ground)
    assert torch.equal(denoiser.encode_pool(tmp_path, one, ground)[0], first)
    assert captions == [denoiser.example(0, index)[1] for index in range(ground.num_examples("denoiser"))]
    one.encoder.conv_out.weight.mul_(2)
    assert not torch.equal(denoiser.encode_pool(tmp_path, one, ground)[0], first)
