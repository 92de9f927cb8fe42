"""What a guidance-distilled model is told its guidance is, while it learns."""

import json
import shutil

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.families import registry
from pipeline.families.options import ModelOptions
from tests.conftest import prepared, small_flags
from tests.families.asked import PROMPT, conditioning_of, denoiser_of, latents, listening

pytestmark = pytest.mark.contract


def told(folder, guidance):
    return registry.find(
        ModelOptions(pretrained_model_name_or_path=str(folder), training_guidance=guidance), None, weights=False
    )


@torch.no_grad()
def test_it_is_told_what_is_asked_and_answers_otherwise(miniature_of):
    found = {}
    for guidance in (1.0, 3.5):
        family = told(miniature_of("flux"), guidance)
        model, conditioning = denoiser_of(family), conditioning_of(family, PROMPT)
        with listening(model) as calls:
            found[guidance] = family.denoise(model, latents(family, count=1), torch.tensor([0.5]), conditioning)
        assert calls[0]["guidance"].tolist() == [guidance]
    assert not torch.equal(found[1.0], found[3.5])


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "lumina2", "sana"])
def test_others_are_told_none(miniature_of, name):
    assert told(miniature_of(name), 1.0)
    with pytest.raises(ConfigError, match=f"this {name} is told no guidance"):
        told(miniature_of(name), 3.5)


def test_a_flux_without_the_embedding_is_told_none(miniature_of, tmp_path):
    schnell = shutil.copytree(miniature_of("flux"), tmp_path / "schnell")
    path = schnell / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"guidance_embeds": False}))
    with pytest.raises(ConfigError, match="this flux is told no guidance"):
        told(schnell, 3.5)


def test_the_plan_says_so(miniature_of, colours, cache, tmp_path):
    flags = small_flags(miniature_of("flux"), colours, cache)
    text = prepared([*flags, "--training_guidance", "3.5"], tmp_path / "out").plan.text()
    assert "3.5 while it learns and is measured" in text
