"""What every family must satisfy, on a miniature of its real architecture."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline

from pipeline.adapter import lora
from pipeline.adapter.options import AdapterOptions
from pipeline.conditioning import Conditioning
from pipeline.errors import CheckpointError, ConfigError
from pipeline.families import base, miniature
from pipeline.families.options import ModelOptions
from pipeline.objective.losses import squared_error

pytestmark = pytest.mark.contract


@pytest.fixture(params=sorted(miniature.FAMILIES))
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("family") / request.param
    miniature.write(request.param, folder)
    return base.detect(folder)


def inputs(family, height=16, width=24):
    pipe = family.load(*family.encoders)
    rows = [family.encode_text(pipe, caption) for caption in ("a red square", "")]
    conditioning = Conditioning({name: torch.stack([row[name] for row in rows]) for name in rows[0]})
    denoiser = getattr(family.load(family.denoiser), family.denoiser)
    x_t = torch.randn(2, denoiser.config.in_channels, height, width, generator=torch.Generator().manual_seed(0))
    return denoiser, x_t, conditioning


def test_shape_in_is_shape_out_also_where_not_square(family):
    denoiser, x_t, conditioning = inputs(family)
    assert family.denoise(denoiser, x_t, torch.tensor([0.1, 0.9]), conditioning).shape == x_t.shape


def test_gradients_reach_every_target_and_nothing_else(family):
    denoiser, x_t, conditioning = inputs(family)
    lora.attach(denoiser, AdapterOptions(rank=2), family.targets, seed=0)
    prediction = family.denoise(denoiser, x_t, torch.tensor([0.1, 0.9]), conditioning)
    squared_error(prediction, torch.zeros_like(prediction)).sum().backward()
    for name, value in denoiser.named_parameters():
        assert (value.grad is not None) == (".lora_" in name), name
    assert all(value.grad.any() for name, value in lora.parameters(denoiser).items() if ".lora_B." in name)
    for target in family.targets.named["attention"]:
        assert any(f".{target}.lora_A" in name for name in lora.parameters(denoiser))


def test_the_adapter_is_float32_over_a_half_precision_base(family):
    denoiser = getattr(family.load(family.denoiser, dtype=torch.bfloat16), family.denoiser)
    lora.attach(denoiser, AdapterOptions(rank=2), family.targets, seed=0)
    assert {value.dtype for value in lora.parameters(denoiser).values()} == {torch.float32}
    assert {value.dtype for name, value in denoiser.named_parameters() if ".lora_" not in name} == {torch.bfloat16}


def test_prediction_at_a_time_is_the_pipelines_own_call(family):
    denoiser, x_t, conditioning = inputs(family)
    pipe = DiffusionPipeline.from_pretrained(family.folder)
    pipe.scheduler.set_timesteps(20)
    for step in (pipe.scheduler.timesteps[0], pipe.scheduler.timesteps[-1]):
        t = torch.full((2,), step.item() / pipe.scheduler.config.num_train_timesteps)
        with torch.no_grad():
            ours = family.denoise(denoiser, x_t, t, conditioning)
            states = conditioning.tensors["prompt_embeds"]
            theirs = getattr(pipe, family.denoiser)(x_t, step, encoder_hidden_states=states).sample
        assert torch.equal(ours, theirs)


def test_latents_are_in_the_units_the_sampler_decodes(family):
    pipe = family.load("vae")
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = family.encode_image(pipe, pixels)
    with torch.no_grad():
        posterior = pipe.vae.encode(pixels).latent_dist
    torch.testing.assert_close(mean / pipe.vae.config.scaling_factor, posterior.mean)
    torch.testing.assert_close(std / pipe.vae.config.scaling_factor, posterior.std)


def test_the_native_size_is_the_checkpoints(family):
    assert family.native_pixels == 64
    assert family.native_pixels % family.size_multiple == 0


def test_unsuited_models_are_refused_in_a_sentence(family, tmp_path):
    def changed(part, **values):
        folder = tmp_path / part.replace("/", "-")
        shutil.copytree(family.folder, folder)
        path = folder / part
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        return folder

    with pytest.raises(CheckpointError, match="FluxPipeline, which is not supported"):
        base.detect(changed("model_index.json", _class_name="FluxPipeline"))
    with pytest.raises(CheckpointError, match="inpainting"):
        base.detect(changed("unet/config.json", in_channels=9)).path()
    with pytest.raises(CheckpointError, match="sample"):
        base.detect(changed("scheduler/scheduler_config.json", prediction_type="sample")).path()


def test_a_model_that_is_nowhere_is_named_without_a_wait(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("./nowhere", "nowhere", "a/b/c"):
        with pytest.raises(CheckpointError, match="does not exist"):
            base.resolve(ModelOptions(pretrained_model_name_or_path=name), tmp_path, None)


def test_miniatures_repeat_and_refuse(tmp_path):
    for name in ("a", "b"):
        miniature.write("sd", tmp_path / name)
    file = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    with pytest.raises(ConfigError, match="not empty"):
        miniature.write("sd", tmp_path / "a")


def test_a_variant_is_loaded_and_is_another_model_to_every_cache(family, tmp_path):
    """Half-precision files beside full ones: the flag decides which are read, and no encoding is shared."""
    folder = tmp_path / "both"
    pipe = DiffusionPipeline.from_pretrained(family.folder)
    pipe.save_pretrained(folder)
    with torch.no_grad():
        for value in pipe.unet.parameters():
            value.add_(1.0)
    pipe.save_pretrained(folder, variant="fp16")
    plain, other = base.detect(folder), base.detect(folder, "fp16")
    assert ModelOptions(pretrained_model_name_or_path=str(folder), variant="fp16").local_folder(folder) == folder
    first, second = (getattr(found.load(found.denoiser), found.denoiser).state_dict() for found in (plain, other))
    assert all(torch.allclose(second[name], first[name] + 1, atol=1e-5) for name in first)
