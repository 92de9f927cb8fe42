"""Bases in one file: read part by part as they were, or refused in a sentence that names what is missing."""

import json
import shutil

import diffusers
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline.errors import CheckpointError
from pipeline.families import miniature, registry
from pipeline.families.checkpoint import single_file, single_file_keys
from pipeline.families.options import ModelOptions
from tests.conftest import largest_difference, make_colours, replaced, small_flags, snippet_of, status
from tests.families import original

pytestmark = pytest.mark.contract
FILE = "pytorch_lora_weights.safetensors"
FAMILIES = ("sd", "sdxl", "sd3")


@pytest.fixture(scope="session", params=FAMILIES)
def model(request, shared):
    return shared(f"one-file-{request.param}", lambda folder: _model(request.param, folder))


@pytest.fixture(scope="session")
def sd(shared):
    return shared("one-file-sd", lambda folder: _model("sd", folder))


def _model(name, folder):
    """Write a miniature as a folder, as a folder of its configuration alone, and as one file."""
    miniature.write(name, folder / "whole")
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder / "whole")
    if name == "sd3":  # see original._sd3
        with torch.no_grad():
            pipe.text_encoder.text_projection.weight.copy_(torch.eye(32))
        pipe.save_pretrained(folder / "whole")
    shutil.copytree(folder / "whole", folder / "config", ignore=shutil.ignore_patterns("*.safetensors"))
    original.write(pipe, folder / "model.safetensors")


def found(file, config, **more):
    options = ModelOptions(pretrained_model_name_or_path=str(file), single_file_config=config and str(config), **more)
    return registry.find(options, None)


def models_in(pipe):
    return {name: value for name, value in pipe.components.items() if isinstance(value, torch.nn.Module)}


def test_every_part_is_what_was_written(model):
    family = found(model / "model.safetensors", model / "config")
    whole = registry.detect(model / "whole")
    parts = (*whole.encoders, whole.denoiser, "vae", "scheduler")
    ours, theirs = models_in(family.load(*parts)), models_in(whole.load(*parts))
    assert ours.keys() == theirs.keys()
    for part, module in theirs.items():
        expected, got = module.state_dict(), ours[part].state_dict()
        assert expected.keys() == got.keys()
        assert all(torch.equal(got[name], value) for name, value in expected.items()), part
        assert not ours[part].training


@pytest.mark.slow
def test_flux_is_read_where_it_is_as_wide_as_published(tmp_path):
    """Its denoiser alone, as it is published; the converter knows no other width: a gigabyte of it."""
    miniature.write("flux", tmp_path / "small")
    whole = changed(tmp_path / "small", tmp_path / "whole", "transformer", num_layers=1, num_single_layers=1,
                    attention_head_dim=128, num_attention_heads=24, axes_dims_rope=[16, 56, 56])  # fmt: skip
    config = diffusers.FluxTransformer2DModel.load_config(whole / "transformer")
    with torch.device("meta"):
        transformer = diffusers.FluxTransformer2DModel.from_config(config).to(torch.bfloat16)
    transformer.to_empty(device="cpu")
    for number, value in enumerate(transformer.parameters()):
        value.data.copy_(torch.randn(value.shape[-1], generator=torch.Generator().manual_seed(number)))
    pipe = diffusers.FluxPipeline.from_pretrained(tmp_path / "small", transformer=transformer)
    original.write(pipe, tmp_path / "flux.safetensors", dtype=torch.bfloat16)
    family = found(tmp_path / "flux.safetensors", whole)
    loaded = family.load("transformer", "vae", "text_encoder", dtype=torch.bfloat16)
    state = loaded.transformer.state_dict()
    assert all(torch.equal(state[name], value) for name, value in transformer.state_dict().items())
    assert torch.equal(loaded.vae.encoder.conv_in.weight, pipe.vae.encoder.conv_in.weight.bfloat16())


def test_only_what_is_asked_for_is_loaded_and_at_the_precision_that_is_asked_for(model):
    family = found(model / "model.safetensors", model / "config")
    assert models_in(family.load("vae", "scheduler")).keys() == {"vae"}
    pipe = family.load(family.denoiser, dtype=torch.bfloat16)
    assert {value.dtype for value in getattr(pipe, family.denoiser).parameters()} == {torch.bfloat16}


def test_half_precision_on_disk_is_full_precision_in_use(sd, tmp_path):
    pipe = diffusers.DiffusionPipeline.from_pretrained(sd / "whole")
    original.write(pipe, tmp_path / "half.safetensors", dtype=torch.float16)
    unet = found(tmp_path / "half.safetensors", sd / "config").load("unet").unet
    assert torch.equal(unet.conv_in.weight, pipe.unet.conv_in.weight.half().float())


def test_a_run_from_one_file_is_the_run_from_its_folder(trainer, model, tmp_path, monkeypatch):
    folder, file = tmp_path / "from folder", tmp_path / "from file"
    flags = small_flags(model / "whole", make_colours(tmp_path / "data"), tmp_path / "cache")
    # How numbers lie in memory decides the last bit of a sum; see test_batches_of_any_cut for the epsilon.
    flags = [*replaced(flags, max_train_steps=2), "--checkpointing_steps", "1", "--adam_epsilon", "1e-5"]
    assert trainer(*replaced(flags, num_validation_images=0), "--output_dir", folder).code == 0
    flags += ["--validation_prompt", "a red square"]
    flags[1] = str(model / "model.safetensors")
    ended = trainer(*flags, "--single_file_config", model / "config", "--output_dir", file)
    assert ended.code == 0, ended.output
    ours, theirs = load_file(file / FILE), load_file(folder / FILE)
    assert all(torch.allclose(ours[name], value, atol=1e-5) for name, value in theirs.items())
    whole = (file / FILE).read_bytes()
    shutil.rmtree(file / "checkpoint-2")
    (file / FILE).unlink()
    words = ["--single_file_config", model / "config", "--output_dir", file, "--resume_from_checkpoint", "latest"]
    ended = trainer(*flags, *words)
    assert ended.code == 0, ended.output
    assert (file / FILE).read_bytes() == whole
    for name in ("model.safetensors", "config"):
        (file / name).symlink_to(model / name)
    monkeypatch.chdir(file)
    exec(compile(snippet_of((file / "README.md").read_text(encoding="utf-8")), "card", "exec"), {})
    preview = Image.open(file / "samples" / "step-000002" / "0000.png")
    assert largest_difference(Image.open("picture.png"), preview) <= 1


def test_another_file_of_the_same_name_is_another_base(trainer, sd, tmp_path):
    flags = small_flags(tmp_path / "model.safetensors", make_colours(tmp_path / "data"), tmp_path / "cache")
    flags = replaced(flags, max_train_steps=1, num_validation_images=0)
    flags += ["--single_file_config", str(sd / "config"), "--output_dir", str(tmp_path / "out")]
    shutil.copy(sd / "model.safetensors", tmp_path)
    assert trainer(*flags).code == 0
    pipe = diffusers.DiffusionPipeline.from_pretrained(sd / "whole")
    with torch.no_grad():
        pipe.unet.conv_in.bias.add_(1)
    original.write(pipe, tmp_path / "model.safetensors")
    ended = trainer(*flags, "--resume_from_checkpoint", "latest")
    assert ended.code == 2
    assert "base_model" in ended.output


def test_what_the_file_lacks_comes_from_the_folder_or_is_named(sd, tmp_path):
    pipe = diffusers.DiffusionPipeline.from_pretrained(sd / "whole")
    file = tmp_path / "unet.safetensors"
    original.write(pipe, file, without=["vae", "text_encoder"])
    lent = found(file, sd / "whole").load("tokenizer", "text_encoder", "unet", "vae")
    assert torch.equal(lent.vae.encoder.conv_in.weight, pipe.vae.encoder.conv_in.weight)
    assert torch.equal(lent.unet.conv_in.weight, pipe.unet.conv_in.weight)
    with pytest.raises(CheckpointError, match=r"(?s)vae: neither in the file nor.*text_encoder: neither in the file"):
        found(file, sd / "config")


def changed(folder, to, part, **values):
    """A copy of a folder with another configuration of one part."""
    shutil.copytree(folder, to)
    path = next((to / part).glob("*config.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return to


def test_a_file_that_does_not_fit_its_configuration_is_refused(sd, tmp_path):
    file = sd / "model.safetensors"
    deeper = changed(sd / "config", tmp_path / "deeper", "unet", layers_per_block=2)
    wider = changed(sd / "config", tmp_path / "wider", "unet", block_out_channels=[16, 48])
    shallow = changed(
        sd / "config", tmp_path / "shallow", "unet",
        block_out_channels=[16], down_block_types=["CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D"],
    )  # fmt: skip
    longer = changed(sd / "config", tmp_path / "longer", "text_encoder", num_hidden_layers=3)
    for config, part in ((deeper, "unet"), (wider, "unet"), (shallow, "unet"), (longer, "text_encoder")):
        with pytest.raises(CheckpointError, match="does not fit the configuration in"):
            found(file, config).load(part)


def test_numbers_without_a_place_are_not_left_out_in_silence(sd, tmp_path):
    """A loader that drops them says nothing: scales of 8-bit weights, one block more."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(sd / "whole")
    more = {f"{original.PREFIX}input_blocks.1.1.proj_in.scale_weight": torch.ones(1)}
    original.write(pipe, tmp_path / "scaled.safetensors", more=more)
    with pytest.raises(CheckpointError, match=r"unet: [\d,]+ numbers in the file, [\d,]+ in the configuration"):
        found(tmp_path / "scaled.safetensors", sd / "config")


def test_a_file_that_predicts_v_wants_a_scheduler_that_says_so(sd, tmp_path):
    pipe = diffusers.DiffusionPipeline.from_pretrained(sd / "whole")
    file = tmp_path / "v.safetensors"
    original.write(pipe, file, more={single_file.V_PREDICTION: torch.zeros(0)})
    with pytest.raises(CheckpointError, match=r"predicts v, and the scheduler in .* says epsilon"):
        found(file, sd / "config")
    right = changed(sd / "config", tmp_path / "v", "scheduler", prediction_type="v_prediction")
    assert found(file, right).load("unet").unet is not None


def test_other_files_are_refused_in_a_sentence(sd, tmp_path, trainer, colours):
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x04anything")
    (tmp_path / "broken.safetensors").write_bytes(b"not a header")
    original.save_file({"lora_unet_x.lora_down.weight": torch.ones(1)}, tmp_path / "lora.safetensors")
    original.save_file({"encoder.conv_in.weight": torch.ones(1)}, tmp_path / "vae.safetensors")
    for name, said in (
        ("model.ckpt", "Pickles"),
        ("broken.safetensors", "cannot be read as safetensors"),
        ("lora.safetensors", "is an adapter; give it to --init_lora"),
        ("vae.safetensors", "holds no denoiser"),
    ):
        flags = small_flags(tmp_path / name, colours, tmp_path / "cache")
        ended = trainer(*flags, "--single_file_config", sd / "config", "--output_dir", tmp_path / "out")
        assert ended.code == 2, name
        assert said in ended.output, name
        assert not (tmp_path / "out").exists() or status(tmp_path / "out")["exit_code"] == 2


@pytest.mark.parametrize("word", ["revision", "variant"])
def test_words_without_effect_are_refused(trainer, sd, colours, tmp_path, word):
    flags = small_flags(sd / "model.safetensors", colours, tmp_path / "cache")
    ended = trainer(
        *flags, "--single_file_config", sd / "config", f"--{word}", "fp16", "--output_dir", tmp_path / "out"
    )
    assert ended.code == 2
    assert "have no effect on a single .safetensors file" in ended.output


def test_families_that_diffusers_does_not_read_from_one_file(sd, tmp_path):
    miniature.write("sana", tmp_path / "sana")
    with pytest.raises(CheckpointError, match="diffusers does not read a SanaPipeline from one file"):
        found(sd / "model.safetensors", tmp_path / "sana")


def test_without_a_configuration_the_usual_one_is_taken_from_what_was_downloaded(model, tmp_path, monkeypatch):
    usual = single_file_keys.usual_config(model / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"that of {usual} is not to be had.*--single_file_config"):
        found(model / "model.safetensors", None)
    place = tmp_path / f"models--{usual.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copytree(model / "config", place / "snapshots" / ("0" * 40))
    options = ModelOptions(pretrained_model_name_or_path=str(model / "model.safetensors"))
    family = registry.find(options, str(tmp_path))
    assert models_in(family.load("vae")).keys() == {"vae"}
    shutil.rmtree(place / "snapshots" / ("0" * 40) / "vae")
    with pytest.raises(CheckpointError, match="is not to be had"):
        registry.find(options, str(tmp_path))
