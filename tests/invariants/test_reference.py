"""Invariants 1, 5, 8, 10: diffusers' loss, nothing added at the start, equal bytes, the null of the pipeline."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image

from pipeline import rng
from pipeline.adapter import lora
from pipeline.adapter.options import AdapterOptions
from pipeline.data.buckets import together
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.data.sampler import StepSampler
from pipeline.families import parts, registry
from pipeline.geometry import Size
from pipeline.objective.options import ObjectiveOptions
from pipeline.sharing import hub
from tests.conftest import attach, dedupe, metrics
from tests.running import Running, whole_grid

pytestmark = pytest.mark.invariant


@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("model", ["miniature", "miniature_v"])
def test_first_losses_equal_a_loop_of_diffusers_pieces(trainer, small, colours, tmp_path, request, model, gamma):
    folder, out = request.getfixturevalue(model), tmp_path / "out"
    flags = [*small, "--pretrained_model_name_or_path", folder, "--center_crop", "--no-buckets", "--max_train_steps", 3]
    flags += ["--caption_dropout", 0.5, "--seed", 3, "--output_dir", out, "--learning_rate", 1e-12]
    ended = trainer(*dedupe(flags), *([] if gamma is None else ["--snr_gamma", gamma]))
    assert ended.code == 0, ended.output

    pipe = StableDiffusionPipeline.from_pretrained(folder)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    examples = read_manifest(colours, DataOptions()).examples
    sampler = StepSampler(together(len(examples), Size.square(64)), 2, seed=3)
    for step, row in enumerate(metrics(out)):
        losses = []
        for position in sampler.step(step):
            example, epoch = examples[position.index], position.epoch
            losses.append(reference_loss(pipe, scheduler, example, epoch, gamma))
        assert row["loss"] == pytest.approx(sum(losses) / 2, abs=1e-5, rel=1e-5)


@torch.no_grad()
def reference_loss(pipe, scheduler, example, epoch, gamma) -> float:
    """As in diffusers' train_text_to_image_lora.py, on the draws that belong to the example."""
    picture = Image.open(example.source.path).convert("RGB")
    square = picture.crop((8, 0, 72, 64))  # 80 x 64, centred
    pixels = torch.from_numpy(np.array(square)).float().permute(2, 0, 1)[None] / 127.5 - 1
    posterior = pipe.vae.encode(pixels).latent_dist
    latents = posterior.mean + posterior.std * rng.normal(3, epoch, example.id, "posterior", posterior.mean.shape[1:])
    latents = latents * pipe.vae.config.scaling_factor
    noise = rng.normal(3, epoch, example.id, "noise", latents.shape[1:])[None]
    index = torch.tensor([int(rng.uniform(3, epoch, example.id, "time") * 1000)])
    caption = "" if rng.uniform(3, epoch, example.id, "caption dropout") < 0.5 else example.caption
    tokens = pipe.tokenizer([caption], padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    states = pipe.text_encoder(tokens.input_ids)[0]
    prediction = pipe.unet(scheduler.add_noise(latents, noise, index), index, states).sample
    is_v = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, index) if is_v else noise
    loss = F.mse_loss(prediction, target)
    if gamma is not None:
        snr = scheduler.alphas_cumprod[index] / (1 - scheduler.alphas_cumprod[index])
        loss = loss * (torch.minimum(snr, torch.tensor(gamma)) / (snr + 1 if is_v else snr)).squeeze()
    return loss.item()


def test_an_adapter_at_the_start_is_the_base_exactly(miniature):
    family = registry.detect(miniature)
    denoiser = family.load("unet").unet
    generator = torch.Generator().manual_seed(0)
    x_t, states = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 77, 32, generator=generator)
    with torch.no_grad():
        before = denoiser(x_t, torch.tensor([10, 900]), states).sample
        attach(denoiser, AdapterOptions(rank=4), family.targets)
        after = denoiser(x_t, torch.tensor([10, 900]), states).sample
        for name, value in lora.parameters(denoiser).items():
            if ".lora_B." in name:
                value.data = torch.ones_like(value)
        moved = denoiser(x_t, torch.tensor([10, 900]), states).sample
        from diffusers.utils import set_weights_and_activate_adapters

        set_weights_and_activate_adapters(denoiser, ["default"], [0.0])
        at_zero = denoiser(x_t, torch.tensor([10, 900]), states).sample
    assert torch.equal(before, after)
    assert not torch.allclose(before, moved)
    assert torch.equal(before, at_zero)


def test_two_hash_seeds_give_the_same_bytes(small, tmp_path, monkeypatch):
    """Of everything that is shared: the adapter, the file for ComfyUI, the settings and the card.

    The script itself, cold, and a warmed process, which has the seed of its fork server; the folders have one name, for
    it is in the card.
    """
    cold, warm = tmp_path / "cold", tmp_path / "warm"
    cold.mkdir()
    warm.mkdir()
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "HF_HUB_OFFLINE": "1"}

    def python(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *words], cwd=cold, env=environment, capture_output=True, text=True)

    more = ["--validation_prompt", "a red square", "--random_flip", "--max_train_steps", "2"]
    words = [*dedupe([*small, *more]), "--output_dir", "out"]
    typed = python(str(Path("train_lora.py").resolve()), *words)
    assert typed.returncode == 0, typed.stderr
    assert "out/report.html" in typed.stderr.splitlines()[-1]
    monkeypatch.chdir(warm)
    forked = Running(words, tmp_path / "log", prepared=whole_grid).wait()
    assert forked.code == 0, forked.output
    hashed = ("-c", "print(hash('a red square'))")
    assert python(*hashed).stdout != Running([], tmp_path / "hash", program=hashed).wait().output
    outs = [place / "out" for place in (cold, warm)]
    first, second = ({name: (out / name).read_bytes() for name in hub.chosen(out)} for out in outs)
    assert {"pytorch_lora_weights.safetensors", "comfyui/out.safetensors", "run.toml", "README.md"} < first.keys()
    assert first == second


@pytest.mark.parametrize(("caption", "which"), [("a red square", 0), (None, 1)])
def test_captions_and_the_null_are_encoded_as_the_pipeline_does(miniature, caption, which):
    family = registry.detect(miniature)
    pipe = StableDiffusionPipeline.from_pretrained(miniature)
    ours = family.embed(family.load(*family.encoders), caption)["prompt_embeds"]
    with torch.no_grad():
        theirs = pipe.encode_prompt("a red square", torch.device("cpu"), 1, True)[which]
    assert torch.equal(ours, theirs[0])


def test_the_unit_of_time_is_the_samplers(miniature):
    family = registry.detect(miniature)
    path = family.path(ObjectiveOptions())
    indices = torch.arange(1000)
    assert torch.equal(path.index(indices / 1000), indices)
    assert torch.equal(path.index(path.time((indices.double() + 0.999) / 1000, 0)), indices)
    assert torch.equal(parts.timestep(family, indices / 1000), indices)
