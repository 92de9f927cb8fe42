"""Which checkpoints are taken as they are, and which are refused in a sentence."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline, FluxTransformer2DModel

from pipeline.conditioning import Conditioning
from pipeline.errors import CheckpointError
from pipeline.families import miniature, registry
from pipeline.families.options import ModelOptions
from pipeline.geometry import Size
from pipeline.objective.options import ObjectiveOptions
from tests.conftest import prepared, small_flags

pytestmark = pytest.mark.contract
SIDE = 64  # pixels


def changed(family, tmp_path, part, **values):
    folder = tmp_path / part.replace("/", "-")
    shutil.copytree(family.source.folder, folder)
    path = folder / part
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return registry.detect(folder)


def test_a_variant_is_loaded_and_is_another_model_to_every_cache(family, tmp_path):
    """Half-precision files beside full ones: the flag decides which are read, and no encoding is shared."""
    folder = tmp_path / "both"
    pipe = DiffusionPipeline.from_pretrained(family.source.folder)
    pipe.save_pretrained(folder)
    with torch.no_grad():
        for value in getattr(pipe, family.denoiser).parameters():
            value.add_(1.0)
    pipe.save_pretrained(folder, variant="fp16")
    plain, other = registry.detect(folder), registry.detect(folder, "fp16")
    assert ModelOptions(pretrained_model_name_or_path=str(folder), variant="fp16").local_folder == folder
    assert plain.source.fingerprint(("vae",)) != other.source.fingerprint(("vae",))
    first, second = (getattr(f.load(f.denoiser), f.denoiser).state_dict() for f in (plain, other))
    moved = [name for name in first if first[name].is_floating_point() and "pos_embed.pos_embed" not in name]
    assert all(torch.allclose(second[name], first[name] + 1, atol=1e-5) for name in moved)


def test_unsuited_models_are_refused_in_a_sentence(family, tmp_path):
    with pytest.raises(CheckpointError, match="PixArtAlphaPipeline, which is not supported"):
        changed(family, tmp_path, "model_index.json", _class_name="PixArtAlphaPipeline")
    with pytest.raises(CheckpointError, match="inpainting"):
        changed(family, tmp_path, f"{family.denoiser}/config.json", in_channels=384).path(ObjectiveOptions())


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_other_predictions_and_distilled_models_are_refused(name, tmp_path):
    miniature.write(name, tmp_path / name)
    family = registry.detect(tmp_path / name)
    with pytest.raises(CheckpointError, match="'x'; epsilon, v_prediction and sample can be trained"):
        changed(family, tmp_path, "scheduler/scheduler_config.json", prediction_type="x").path(ObjectiveOptions())
    with pytest.raises(CheckpointError, match="distilled"):
        changed(family, tmp_path, "unet/config.json", time_cond_proj_dim=8).path(ObjectiveOptions())


@pytest.mark.parametrize("values", [{"use_flow_sigmas": False}, {"prediction_type": "epsilon"}])
def test_a_solver_that_is_not_set_to_flow_is_refused(values, tmp_path):
    miniature.write("sana", tmp_path / "sana")
    family = registry.detect(tmp_path / "sana")
    with pytest.raises(CheckpointError, match="not set to flow"):
        changed(family, tmp_path, "scheduler/scheduler_config.json", **values).path(ObjectiveOptions())


def test_the_refiner_is_refused(tmp_path):
    miniature.write("sdxl", tmp_path / "sdxl")
    family = registry.detect(tmp_path / "sdxl")
    with pytest.raises(CheckpointError, match="refiner"):
        changed(family, tmp_path, "model_index.json", text_encoder=[None, None]).path(ObjectiveOptions())


def test_a_refiner_is_known_by_its_aesthetic_scores_too(tmp_path):
    miniature.write("sdxl", tmp_path / "sdxl")
    family = registry.detect(tmp_path / "sdxl")
    with pytest.raises(CheckpointError, match="refiner"):
        changed(family, tmp_path, "model_index.json", requires_aesthetics_score=True).path(ObjectiveOptions())


def test_flux_schnell_is_not_told_its_guidance(tmp_path):
    """It has no layer for it."""
    miniature.write("flux", tmp_path / "flux")
    family = registry.detect(tmp_path / "flux")
    config = FluxTransformer2DModel.load_config(tmp_path / "flux" / "transformer") | {"guidance_embeds": False}
    model = FluxTransformer2DModel.from_config(config)
    states = {"prompt_embeds": torch.zeros(1, 8, 32), "pooled_prompt_embeds": torch.zeros(1, 32)}
    said = family.denoise(
        model, torch.zeros(1, *family.latent_shape(Size.square(SIDE))), torch.tensor([0.5]), Conditioning(states)
    )
    assert said.shape == (1, *family.latent_shape(Size.square(SIDE)))


def test_an_autoencoder_that_overflows_stays_in_full_precision(family):
    vae = family.load_encoders(torch.bfloat16).vae
    assert vae.dtype == (torch.float32 if vae.config.get("force_upcast") else torch.bfloat16)
    assert vae.dtype == torch.float32 or family.name != "sdxl"


def test_captions_are_dropped_only_where_the_sampler_has_a_null(family, colours, tmp_path):
    context = prepared(small_flags(family.source.folder, colours, tmp_path / "cache"), tmp_path / "out")
    assert context.run.data.caption_dropout == (0.1 if family.supports_cfg else 0)
    assert family.supports_cfg == (family.name != "flux")


def test_sd3_without_t5_is_refused(tmp_path):
    """Its pipeline asks the denoiser for the width of the zeros that stand for T5, and encoders are loaded alone."""
    miniature.write("sd3", tmp_path / "whole")
    none = {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    family = changed(registry.detect(tmp_path / "whole"), tmp_path, "model_index.json", **none)
    with pytest.raises(CheckpointError, match="has no T5"):
        family.path(ObjectiveOptions())
