"""Parts of a model that do not fit each other are named before anything is encoded."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from pipeline.errors import CheckpointError
from pipeline.families import fit, registry
from pipeline.objective.options import ObjectiveOptions
from tests.conftest import make_colours, replaced, small_flags

pytestmark = pytest.mark.contract
CAPTIONS = ("a red square", "a blue square")


@pytest.fixture
def model_of(miniature_of, tmp_path):
    """A copy of a miniature, to be harmed."""
    return lambda name: shutil.copytree(miniature_of(name), tmp_path / name)


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def require(model, captions=CAPTIONS):
    fit.require_fitting(registry.detect(model), captions)


@pytest.mark.parametrize("name", sorted(registry.NAMES))
def test_the_parts_of_every_miniature_fit(miniature_of, name):
    require(miniature_of(name))


@pytest.mark.parametrize("name", sorted(registry.NAMES))
def test_a_text_encoder_of_another_width_is_named(model_of, name):
    model = model_of(name)
    family = registry.detect(model)
    for key in family.text_widths:
        config = family.part_config(family.denoiser)
        change(model / family.denoiser / "config.json", **{key: config[key] + 8})
        with pytest.raises(CheckpointError, match=f"its {key} is {config[key] + 8}, and the text encoders give"):
            require(model)


@pytest.mark.parametrize("name", sorted(registry.NAMES))
def test_more_tokens_than_embeddings_are_named(model_of, name):
    model = model_of(name)
    change(model / "text_encoder" / "config.json", vocab_size=7)
    with pytest.raises(CheckpointError, match=r"tokenizer: it has \d+ tokens, and text_encoder has embeddings for 7"):
        require(model)


@pytest.mark.parametrize("name", ["sd", "sdxl", "lumina2"])
def test_a_tokenizer_without_its_words_is_named(model_of, name):
    model = model_of(name)
    for path in (model / "tokenizer").glob("*"):
        if path.name in ("tokenizer.json", "vocab.json", "merges.txt") or path.suffix == ".model":
            path.unlink()
    with pytest.raises(CheckpointError, match="so it knows no words"):
        require(model)


def test_a_vocabulary_without_its_merges_is_named(model_of):
    model = model_of("sd")
    (model / "tokenizer" / "tokenizer.json").rename(model / "tokenizer" / "vocab.json")
    with pytest.raises(CheckpointError, match=r"holds vocab\.json and not its merges\.txt"):
        require(model)


def test_captions_of_unknown_letters_are_named(miniature_of):
    with pytest.raises(CheckpointError, match="tokenizer_2: it knows no word of any caption, such as '\u8d64'"):
        require(miniature_of("flux"), ("\u8d64", "\u9752"))
    require(miniature_of("flux"), ("\u8d64", "a red square"))


def test_weights_of_another_variant_are_named(model_of):
    model = model_of("sd")
    for path in model.glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    with pytest.raises(CheckpointError, match="unet: its weights are there as fp16 only; give --variant"):
        require(model)
    fit.require_fitting(registry.detect(model, "fp16"), CAPTIONS)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_a_flow_scheduler_of_a_unet_is_refused(model_of, name):
    model = model_of(name)
    change(model / "scheduler" / "scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler")
    with pytest.raises(CheckpointError, match=r"one of flows \(FlowMatchEulerDiscreteScheduler\)"):
        registry.detect(model).path(ObjectiveOptions())


@pytest.mark.parametrize("name", ["sd3", "flux", "lumina2", "sana"])
def test_a_scheduler_of_noise_levels_is_refused_for_a_flow(model_of, name):
    model = model_of(name)
    path = model / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "DDIMScheduler", "num_train_timesteps": 1000}))
    with pytest.raises(CheckpointError, match=r"\(DDIMScheduler\) is not set to flow"):
        registry.detect(model).path(ObjectiveOptions())


def test_the_file_that_is_missing_is_the_one_that_is_named(model_of):
    model = model_of("sd")
    shutil.rmtree(model / "scheduler")
    with pytest.raises(CheckpointError, match=r"no scheduler/scheduler_config\.json"):
        registry.detect(model).path(ObjectiveOptions())


def test_a_pipeline_class_of_somebodys_own_is_refused(model_of):
    model = model_of("sd")
    change(model / "model_index.json", _class_name=["pipeline", "MyPipeline"])
    with pytest.raises(CheckpointError, match=r"MyPipeline.*which is not supported"):
        registry.detect(model)


def test_nothing_is_claimed_for_a_model_whose_parts_do_not_fit(trainer, model_of, tmp_path):
    model = model_of("sd")
    (model / "tokenizer" / "tokenizer.json").unlink()
    out = tmp_path / "out"
    flags = replaced(small_flags(model, make_colours(tmp_path / "data"), tmp_path / "cache"), max_train_steps=2)
    ended = trainer(*flags, "--output_dir", out)
    assert ended.code == 2
    assert "knows no words" in ended.output
    assert not out.exists()
    assert not any((tmp_path / "cache").rglob("*.safetensors"))


def test_weights_that_are_not_finite_are_named_before_the_first_step(trainer, model_of, tmp_path):
    model, out = model_of("sd"), tmp_path / "out"
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.bias"][0] = float("nan")
    save_file(weights, path, {"format": "pt"})
    flags = small_flags(model, make_colours(tmp_path / "data"), tmp_path / "cache")
    ended = trainer(*flags, "--output_dir", out)
    assert ended.code == 2
    assert "not finite" in ended.output
    assert "unet.conv_in.bias" in ended.output
    assert not (out / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("text", ['{"_class_name": ', "[]", ""])
def test_a_damaged_configuration_is_named(model_of, name, text):
    model = model_of("sd")
    (model / name).write_text(text)
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        registry.detect(model).path(ObjectiveOptions())


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", b"", None])
def test_damaged_weights_are_named_before_anything_is_loaded(model_of, content):
    model = model_of("sd")
    path = model / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(CheckpointError, match=r"vae: .*diffusion_pytorch_model\.safetensors is not whole"):
        require(model)
