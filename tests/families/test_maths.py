"""Every family's times and losses are its scheduler's own, through the whole program too; its strength has a zero."""

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, DiffusionPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pipeline import rng
from pipeline.adapter import lora
from pipeline.adapter.options import AdapterOptions
from pipeline.conditioning import stack
from pipeline.data.buckets import together
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.data.sampler import StepSampler
from pipeline.families import registry
from pipeline.geometry import Geometry, Size
from pipeline.objective.options import ObjectiveOptions
from tests.conftest import attach, make_colours, metrics, replaced, small_flags
from tests.families.asked import PROMPT, conditioning_of, denoiser_of, latents, of_side

pytestmark = pytest.mark.contract
WITH_CLIP = [family.name for family in map(registry.class_of, registry.REGISTRY) if family.trainable_encoders]
FLOW = ("flux", "lumina2", "sana", "sd3")
FILE = "pytorch_lora_weights.safetensors"


def noised_by(scheduler, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The scheduler's own point between data and noise at times that it is told are its own."""
    scheduler = scheduler.from_config(scheduler.config)
    times = t * scheduler.config.num_train_timesteps
    scheduler.sigmas, scheduler.timesteps = t, times
    only_flow = hasattr(scheduler, "scale_noise")
    return scheduler.scale_noise(x_0, times, noise) if only_flow else scheduler.add_noise(x_0, noise, times)


def shifted_by(scheduler, sigma: Tensor, num_tokens: int) -> Tensor:
    """The scheduler's own shift, for a picture of so many tokens."""
    scheduler = scheduler.from_config(scheduler.config)
    if "sigmas" not in inspect.signature(scheduler.set_timesteps).parameters:
        shift = scheduler.config.flow_shift
        return shift * sigma / (1 + (shift - 1) * sigma)
    config = scheduler.config
    ends = config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
    mu = calculate_shift(num_tokens, *ends) if config.use_dynamic_shifting else None
    scheduler.set_timesteps(sigmas=sigma.tolist(), mu=mu)
    return scheduler.sigmas[:-1]


def test_these_are_the_flow_models(family):
    assert (family.path(ObjectiveOptions()).prediction == "flow") == (family.name in FLOW)


@torch.no_grad()
def test_drawn_times_are_shifted_as_the_sampler_shifts_its_own(family, pipe):
    path, tokens = family.path(ObjectiveOptions(weighting_scheme="none")), family.num_tokens(latents(family))
    given, asked = [0.9, 0.5, 0.2], of_side(pipe)
    if path.prediction != "flow":  # discrete, each as likely as any other
        found = path.time(torch.tensor(given, dtype=torch.float64) + 0.0005, tokens)
        assert torch.equal(found, torch.tensor(given))
        return
    if "sigmas" in inspect.signature(pipe.scheduler.set_timesteps).parameters:
        asked["sigmas"] = given
    else:  # it chooses its own; these are the same without the shift
        plain = pipe.scheduler.from_config(pipe.scheduler.config, flow_shift=1.0)
        plain.set_timesteps(3)
        given = plain.sigmas[:3].tolist()
    pipe(PROMPT, **asked, num_inference_steps=3)
    torch.testing.assert_close(path.time(torch.tensor(given, dtype=torch.float64), tokens), pipe.scheduler.sigmas[:3])
    own = family.path(ObjectiveOptions(weighting_scheme="none", timestep_shift=1.0))
    assert torch.equal(own.time(torch.tensor(given), tokens), torch.tensor(given))


def test_a_loss_is_the_schedulers_own_maths(family, pipe):
    path = family.path(ObjectiveOptions())
    x_0, noise = latents(family, count=6), torch.randn(latents(family, count=6).shape)
    t = path.time(
        torch.tensor([0.0, 0.1, 0.37, 0.5, 0.9, 0.999], dtype=torch.float64), family.num_tokens(latents(family))
    )
    noised = path.sample(x_0, noise, t)
    count = pipe.scheduler.config.num_train_timesteps
    if path.prediction == "flow":
        theirs, target = noised_by(pipe.scheduler, x_0, noise, t), noise - x_0
    else:
        scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        index = (t * count).round().long()
        theirs, target = scheduler.add_noise(x_0, noise, index), noise
    torch.testing.assert_close(noised.x_t, theirs)
    assert torch.equal(noised.target, target)


@pytest.mark.parametrize("name", FLOW)
def test_first_losses_equal_a_loop_of_diffusers_pieces(trainer, miniature_of, cache, tmp_path, name):
    """Invariant 1 through a run: noised by the scheduler, F.mse_loss against noise - data, on the same draws."""
    model, data, out = miniature_of(name), make_colours(tmp_path / "data"), tmp_path / "out"
    flags = replaced(small_flags(model, data, cache), max_train_steps=3, learning_rate="1e-12", num_validation_images=0)
    ended = trainer(
        *flags, "--center_crop", "--no-buckets", "--caption_dropout", "0.5", "--seed", "3", "--output_dir", out
    )
    assert ended.code == 0, ended.output
    family, pipe = registry.detect(model), DiffusionPipeline.from_pretrained(model)
    examples = read_manifest(data, DataOptions()).examples
    sampler = StepSampler(together(len(examples), Size.square(64)), 2, seed=3)
    for step, row in enumerate(metrics(out)):
        drawn = [(examples[position.index], position.epoch) for position in sampler.step(step)]
        losses = [reference_loss(family, pipe, example, epoch) for example, epoch in drawn]
        assert row["loss"] == pytest.approx(sum(losses) / 2, abs=1e-5, rel=1e-5)


@torch.no_grad()
def reference_loss(family, pipe, example, epoch) -> float:
    """As in diffusers' train_dreambooth_lora_sd3.py, on the draws that belong to the example."""
    picture = np.array(Image.open(example.source.path).convert("RGB").crop((8, 0, 72, 64)))  # 80 x 64, centred
    mean, std = family.encode_image(pipe, torch.from_numpy(picture).float().permute(2, 0, 1)[None] / 127.5 - 1)
    shape = tuple(mean.shape[1:])
    x_0 = mean + std * rng.normal(3, epoch, example.id, "posterior", shape)
    noise = rng.normal(3, epoch, example.id, "noise", shape)[None]
    u = torch.tensor([float(rng.uniform(3, epoch, example.id, "time"))], dtype=torch.float64)
    sigma = torch.distributions.Normal(0.0, 1.0).icdf(u).sigmoid()  # logit_normal, as in their script
    t = shifted_by(pipe.scheduler, sigma, family.num_tokens(x_0)).float()
    dropped = rng.uniform(3, epoch, example.id, "caption dropout") < 0.5
    cut = family.size_states(Geometry(Size(80, 64), 0, 8, Size(64, 64)))
    conditioning = stack([{**family.embed(pipe, None if dropped else example.caption), **cut}], family.ragged)
    prediction = family.denoise(
        getattr(pipe, family.denoiser), noised_by(pipe.scheduler, x_0, noise, t), t, conditioning
    )
    return F.mse_loss(prediction, noise - x_0).item()


@torch.no_grad()
def test_at_strength_zero_it_is_the_base_exactly(family):
    """Invariant 5, once the adapter has learnt: by the scale that diffusers' own function sets."""
    denoiser = denoiser_of(family)
    asked = latents(family), torch.tensor([0.1, 0.9]), conditioning_of(family, PROMPT, None)
    before = family.denoise(denoiser, *asked)
    attach(denoiser, AdapterOptions(rank=2, lora_layers="all-linear+conv"), family.targets)
    for value in lora.parameters(denoiser).values():
        value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(0)) / 8)
    assert not torch.allclose(family.denoise(denoiser, *asked), before, atol=1e-3)
    with lora.with_scale(denoiser, 0.0):
        assert torch.equal(family.denoise(denoiser, *asked), before)


@pytest.mark.parametrize("name", sorted(registry.NAMES))
def test_gradient_checkpointing_changes_nothing(trainer, miniature_of, cache, tmp_path, name):
    """Invariant 4, with text encoders that learn where the family has such."""
    data = make_colours(tmp_path / "data")
    flags = replaced(small_flags(miniature_of(name), data, cache), max_train_steps=2, num_validation_images=0)
    # Adam divides by a gradient's own size: where that is mere rounding, so would the step be.
    flags += ["--adam_epsilon", "1e-5"]
    flags += ["--train_text_encoder"] if name in WITH_CLIP else []
    found = []
    for more in ([], ["--gradient_checkpointing"]):
        out = tmp_path / str(len(more))
        ended = trainer(*flags, *more, "--output_dir", out)
        assert ended.code == 0, ended.output
        found.append(([row["loss"] for row in metrics(out)], load_file(out / FILE)))
    (losses, ours), (others, theirs) = found
    assert losses == pytest.approx(others, abs=1e-5)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], value, rtol=0, atol=1e-5) for name, value in theirs.items())
    assert any(value.abs().max() > 1e-4 for name, value in ours.items() if ".lora_B." in name)
