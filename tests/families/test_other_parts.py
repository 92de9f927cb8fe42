"""Another autoencoder and another length of text: the trained adapter is drawn with them in the stock pipeline."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline.errors import CheckpointError, ConfigError
from pipeline.families import registry
from pipeline.families.options import ModelOptions
from tests.conftest import largest_difference, make_colours, replaced, small_flags, snippet_of

pytestmark = pytest.mark.contract
FILE = "pytorch_lora_weights.safetensors"
PROMPT = "a red square on something that is hardly to be seen"
WITH_LENGTH = ("sd3", "flux", "lumina2", "sana")


@pytest.fixture(params=sorted(registry.NAMES))
def model(request, miniature_of, tmp_path):
    """A miniature, and beside it another autoencoder for it."""
    (tmp_path / "model").symlink_to(miniature_of(request.param))
    vae = registry.detect(tmp_path / "model").load("vae").vae
    with torch.no_grad():
        for value in vae.parameters():
            value.mul_(1.1)
    vae.save_pretrained(tmp_path / "vae")
    return tmp_path / "model"


def options(model, **values):
    return ModelOptions(pretrained_model_name_or_path=str(model), **values)


def test_the_snippet_draws_with_the_other_autoencoder_and_length(trainer, model, cache, tmp_path, monkeypatch):
    flags = small_flags(model, make_colours(tmp_path / "data"), cache)
    flags = replaced(flags, max_train_steps=2, num_inference_steps=1)
    more = ["--validation_prompt", PROMPT, "--pretrained_vae_model_name_or_path", tmp_path / "vae"]
    if model_name(model) in WITH_LENGTH:
        more += ["--max_sequence_length", "16"]
    plain, other = tmp_path / "plain", tmp_path / "other"
    assert trainer(*replaced(flags, num_validation_images=0), "--output_dir", plain).code == 0
    ended = trainer(*flags, *more, "--output_dir", other)
    assert ended.code == 0, ended.output
    ours, theirs = load_file(other / FILE), load_file(plain / FILE)
    assert any(not torch.equal(ours[name], value) for name, value in theirs.items())
    for name in ("model", "vae"):
        (other / name).symlink_to(tmp_path / name)
    monkeypatch.chdir(other)
    code = snippet_of((other / "README.md").read_text(encoding="utf-8"))
    exec(compile(code, "card", "exec"), {})
    preview = Image.open(other / "samples" / "step-000002" / "0000.png")
    assert largest_difference(Image.open("picture.png"), preview) <= 1
    for words in (", vae=vae", "    max_sequence_length=16,\n")[: 1 + (model_name(model) in WITH_LENGTH)]:
        assert words in code
        exec(compile(code.replace(words, ""), "card", "exec"), {})
        assert largest_difference(Image.open("picture.png"), preview) > 1, words


def model_name(model):
    return registry.detect(model).name


def test_a_length_is_the_pipelines_own_limit(model):
    """Shorter states are the first of the longer; where the text encoder has one length the option is refused."""
    if model_name(model) not in WITH_LENGTH:
        with pytest.raises(ConfigError, match="has one length"):
            registry.find(options(model, max_sequence_length=16), None)
        return
    family, usual = registry.find(options(model, max_sequence_length=16), None), registry.detect(model)
    assert family.max_sequence_length == 16 < usual.max_sequence_length
    pipe = family.load_encoders()
    with torch.no_grad():
        short, long = family.embed(pipe, PROMPT), usual.embed(pipe, PROMPT)
    assert len(short["prompt_embeds"]) < len(long["prompt_embeds"])


def test_an_autoencoder_of_other_latents_is_refused(model, tmp_path):
    def find():
        return registry.find(options(model, pretrained_vae_model_name_or_path=str(tmp_path / "vae")), None)

    assert find().source.vae == tmp_path / "vae"
    path = tmp_path / "vae" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"scaling_factor": 0.5, "latent_channels": 7}))
    with pytest.raises(CheckpointError, match=r"(?s)latent_channels is 7.*scaling_factor is 0\.5"):
        find()
    path.write_text(json.dumps(config | {"_class_name": "AutoencoderTiny"}))
    with pytest.raises(CheckpointError, match="_class_name is AutoencoderTiny"):
        find()
    shutil.rmtree(tmp_path / "vae")
    with pytest.raises(CheckpointError, match="is no folder of an autoencoder"):
        find()
