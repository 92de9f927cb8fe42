"""Files of weights that are not those of their configuration are named before anything is claimed."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import remembered
from pipeline.errors import CheckpointError
from pipeline.families import fit, registry, weights
from pipeline.objective.options import ObjectiveOptions
from tests.conftest import make_colours, replaced, small_flags
from tests.families.test_fit import CAPTIONS, change, require

pytestmark = pytest.mark.contract
UNET, VAE, TEXT = (f"{part}/{name}.safetensors" for part, name in (
    ("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model"),
))  # fmt: skip


@pytest.fixture
def model_of(miniature_of, tmp_path):
    """A copy of a miniature, to be harmed."""
    import shutil

    return lambda name: shutil.copytree(miniature_of(name), tmp_path / name)


def rewrite(path, made_of):
    save_file(made_of(load_file(path)), path, {"format": "pt"})


def without(word):
    return lambda tensors: {name: value for name, value in tensors.items() if word not in name}


def first_filled(value):
    def harmed(tensors):
        name = next(name for name, tensor in tensors.items() if tensor.ndim > 1 and "encoder" in name)
        return tensors | {name: torch.full_like(tensors[name], value)}

    return harmed


@pytest.mark.parametrize(
    ("file", "word", "said"),
    [
        (TEXT, "q_proj.weight", r"text_encoder: the files lack \d+ weights: encoder\.layers\.0\.self_attn\.q_proj\.w"),
        (TEXT, "token_embedding", r"text_encoder: the files lack 1 weights: embeddings\.token_embedding\.weight;"),
        (UNET, "conv_in.bias", r"unet: the files lack 1 weights: conv_in\.bias; download them again"),
        (VAE, "encoder.conv_in.weight", r"vae: the files lack 1 weights: encoder\.conv_in\.weight; download them"),
    ],
)  # fmt: skip
def test_a_weight_that_is_not_there(model_of, file, word, said):
    model = model_of("sd")
    rewrite(model / file, without(word))
    with pytest.raises(CheckpointError, match=said):
        require(model)


@pytest.mark.parametrize("name", sorted(registry.NAMES))
@pytest.mark.parametrize("part", ["denoiser", "vae", "text_encoder"])
def test_of_every_family_and_part_a_missing_weight_is_named(model_of, name, part):
    model = model_of(name)
    folder = model / (registry.detect(model).denoiser if part == "denoiser" else part)
    (file,) = folder.glob("*.safetensors")
    weights = {name: value.numel() for name, value in load_file(file).items() if name.endswith("weight")}
    largest = max(weights, key=lambda name: (weights[name], name))
    rewrite(file, without(largest))
    with pytest.raises(CheckpointError, match=rf"{folder.name}: the files lack 1 weights: "):
        require(model)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_class_that_nobody_has(model_of, part):
    model = model_of("sd")
    if part == "text_encoder":
        change(model / "model_index.json", text_encoder=["transformers", "ChatGLMModel"])
    else:
        change(model / part / "config.json", _class_name="ChatGLMModel")
    with pytest.raises(
        CheckpointError, match=rf"its {part} is a ChatGLMModel, which (transformers|diffusers) [\d.]+ does"
    ):
        require(model)


def test_a_configuration_that_makes_no_model(model_of):
    model = model_of("sd")
    change(model / "unet" / "config.json", down_block_types=["NoBlock", "NoBlock"])
    with pytest.raises(CheckpointError, match=r"no UNet2DConditionModel can be made from unet/config\.json .*NoBlock"):
        require(model)


def test_an_adapter_in_the_place_of_the_unet(model_of):
    model = model_of("sd")
    rewrite(model / UNET, lambda tensors: {"unet.conv_in.lora_A.weight": torch.ones(4, 4)})
    with pytest.raises(CheckpointError, match=r"unet: the files lack \d+ weights: conv_in\.weight"):
        require(model)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_file_that_is_not_there(model_of, part):
    model = model_of("sd")
    (file,) = (model / part).glob("*.safetensors")
    file.unlink()
    with pytest.raises(CheckpointError, match=rf"{part}: .*{part} holds no weights \(\.safetensors\); download them"):
        require(model)
    (model / part / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match=r"only \.bin files, which can run programs and are not read"):
        require(model)
    fit.require_fitting(registry.detect(model), CAPTIONS, with_weights=False)


def test_a_shard_that_is_not_there(model_of):
    model = model_of("sd")
    tensors, folder = load_file(model / UNET), model / "unet"
    (model / UNET).unlink()
    names, shards = sorted(tensors), {}
    for number, chosen in ((1, names[:50]), (2, names[50:])):
        file = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in chosen}, folder / file, {"format": "pt"})
        shards |= dict.fromkeys(chosen, file)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    require(model)
    registry.detect(model).load("unet")
    (folder / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"unet lacks diffusion_pytorch_model-00002-of-00002\.safetensors;"):
        require(model)


def test_shapes_and_kinds_of_numbers(model_of):
    model = model_of("sd")
    rewrite(model / UNET, lambda tensors: tensors | {"conv_in.bias": tensors["conv_in.bias"][:-1].contiguous()})
    with pytest.raises(
        CheckpointError, match=r"unet: the files do not fit config\.json: conv_in\.bias is \d+ and should"
    ):
        require(model)
    change(model / "text_encoder" / "config.json", max_position_embeddings=32)
    with pytest.raises(CheckpointError, match=r"position_embedding\.weight is 77 x 32 and should be 32 x 32"):
        require(model)
    rewrite(model / UNET, lambda tensors: {name: (100 * value).to(torch.int8) for name, value in tensors.items()})
    with pytest.raises(CheckpointError, match=r"unet: its weights are I8, no floating-point numbers"):
        require(model)


def test_names_that_diffusers_knows_from_before(model_of):
    """The autoencoder of Stable Diffusion 1.5 is stored so."""
    model = model_of("sd")
    before = registry.detect(model).load("vae").vae.state_dict()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(tensors):
        pattern = re.compile(r"(mid_block\.attentions\.0\.)(to_q|to_k|to_v|to_out\.0)")
        return {pattern.sub(lambda m: m[1] + old[m[2]], name): value for name, value in tensors.items()}

    rewrite(model / VAE, renamed)
    assert any(".query." in name for name in load_file(model / VAE))
    require(model)
    after = registry.detect(model).load("vae").vae.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_text_encoders_name_that_nobody_knows_is_missing(model_of):
    """transformers would put random numbers in its place, so that a tensor of the same size forgives nothing."""
    model = model_of("sd")
    rewrite(model / TEXT, lambda all_of: {name.replace("q_proj", "query"): value for name, value in all_of.items()})
    with pytest.raises(CheckpointError, match=r"text_encoder: the files lack \d+ weights: encoder\.layers\.0"):
        require(model)


def test_a_name_that_nobody_knows_is_found_out_when_it_is_loaded(model_of, trainer, tmp_path):
    model = model_of("sd")
    rewrite(
        model / UNET, lambda tensors: {name.replace("conv_in.", "first."): value for name, value in tensors.items()}
    )
    flags = replaced(small_flags(model, make_colours(tmp_path / "data"), tmp_path / "cache"), max_train_steps=2)
    ended = trainer(*flags, "--output_dir", tmp_path / "out")
    assert ended.code == 2, ended.output
    assert "unet.conv_in.weight" in ended.output


@pytest.mark.parametrize(("file", "value"), [(TEXT, float("nan")), (VAE, float("inf"))])
def test_encoders_that_are_not_finite_are_named_before_they_are_used(model_of, trainer, tmp_path, file, value):
    model, out = model_of("sd"), tmp_path / "out"
    rewrite(model / file, first_filled(value))
    flags = replaced(small_flags(model, make_colours(tmp_path / "data"), tmp_path / "cache"), max_train_steps=2)
    ended = trainer(*flags, "--output_dir", out)
    assert ended.code == 2, ended.output
    assert "weights that are not finite (NaN or infinity)" in ended.output
    assert f"{file.split('/')[0]}.encoder." in ended.output.replace("text_model.", "")
    assert not any((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("limit", [None, 10**30, 512])
def test_a_tokenizer_that_gives_more_than_is_read(model_of, limit):
    model = model_of("sd")
    path = model / "tokenizer" / "tokenizer_config.json"
    said = {name: value for name, value in json.loads(path.read_text()).items() if name != "model_max_length"}
    path.write_text(json.dumps(said if limit is None else {**said, "model_max_length": limit}))
    shown = 512 if limit == 512 else "not given"
    with pytest.raises(CheckpointError, match=f"json is {shown}, and text_encoder reads 77 tokens; write 77"):
        require(model)


def test_a_pipeline_of_more_parts_than_there_are(model_of):
    model = model_of("sd")
    change(model / "model_index.json", _class_name="StableDiffusionXLPipeline")
    with pytest.raises(CheckpointError, match="XLPipeline needs tokenizer_2, text_encoder_2, and model_index"):
        require(model)


def test_a_refiner_is_called_one(model_of, trainer, tmp_path):
    model = model_of("sdxl")
    change(model / "model_index.json", text_encoder=[None, None], tokenizer=[None, None])
    ended = trainer(*small_flags(model, make_colours(tmp_path / "d"), tmp_path / "c"), "--output_dir", tmp_path / "out")
    assert ended.code == 2
    assert "is a refiner" in ended.output


def test_exchanged_text_encoders(model_of, tmp_path):
    model = model_of("sdxl")
    one, two, spare = model / "text_encoder", model / "text_encoder_2", tmp_path / "spare"
    one.rename(spare)
    two.rename(one)
    spare.rename(two)
    with pytest.raises(CheckpointError, match="are its text encoders exchanged"):
        registry.detect(model).path(ObjectiveOptions())


@pytest.mark.parametrize(
    "values", [{"num_train_timesteps": 0}, {"trained_betas": [0.1, 0.2]}, {"beta_end": 2.0}, {"beta_schedule": "x"}]
)
def test_no_noise_schedule(model_of, values):
    model = model_of("sd")
    change(model / "scheduler" / "scheduler_config.json", **values)
    with pytest.raises(CheckpointError, match=r"makes no noise schedule|cannot be made"):
        registry.detect(model).path(ObjectiveOptions())


def test_weights_that_fit_are_not_compared_again_until_a_file_changes(model_of, tmp_path, monkeypatch):
    """Which builds no autoencoder and no text encoder in a second start; what does not fit is named each time."""
    monkeypatch.setattr(remembered, "FRESH_NS", 0)
    model, compared, of_part = model_of("sd"), [], weights._of_part
    monkeypatch.setattr(weights, "_of_part", lambda source, part: compared.append(part) or of_part(source, part))

    def started():
        compared.clear()
        fit.require_fitting(registry.detect(model), CAPTIONS, cache=tmp_path / "cache")
        return list(compared)

    assert started() == ["unet", "vae", "text_encoder"]
    assert started() == []
    rewrite(model / VAE, without("encoder.conv_in.weight"))
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"encoder\.conv_in\.weight; download them"):
            started()
        assert compared == ["vae"]
    change(model / "text_encoder/config.json", another="value")
    with pytest.raises(CheckpointError, match="download them"):
        started()
    assert compared == ["vae", "text_encoder"]
