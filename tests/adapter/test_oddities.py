"""What files of others have beside a LoRA, or instead of one: left out with a note, or called by its kind."""

import json
import re

import pytest
import torch

from pipeline.adapter import init_from
from pipeline.adapter.files import kohya, reader
from pipeline.adapter.names import pairs
from pipeline.adapter.options import AdapterOptions
from pipeline.commands import adapters
from pipeline.errors import CheckpointError, ConfigError
from pipeline.families import registry
from pipeline.families.meta import layer_shapes
from tests.adapter.dialects import SD, old_dialect
from tests.adapter.foreign_files import additions, assert_same, loaded_by_stock, pair, saved, text_layers
from tests.adapter.learnt import same

pytestmark = pytest.mark.contract
LAYER = "unet.mid_block.attentions.0.proj_in"


def test_layers_of_zeros_are_left_out_with_a_note(wide, layers, miniature, tmp_path, capsys):
    """By export, merge and --init_lora; inspect shows the file as it is."""
    tensors = {name: value.clone() for name, value in wide.items()}
    for name, half in ((LAYER, "B"), ("unet.conv_in", "A")):
        tensors[f"{name}.lora_{half}.weight"].zero_()
    path = saved(tensors, tmp_path / "x.safetensors")
    file = reader.read(path, layers)
    assert pairs(wide).keys() - pairs(file.tensors).keys() == {LAYER, "unet.conv_in"}
    assert file.alphas.keys() == pairs(file.tensors).keys()
    assert file.notes == ("2 layers of zeros, such as unet.conv_in, left out",)
    for kind in ("kohya", "diffusers"):
        adapters.export(path, tmp_path / f"{kind}.safetensors", kind, miniature)
        assert_same(additions(reader.read(tmp_path / f"{kind}.safetensors", layers).tensors), additions(file.tensors))
        assert "2 layers of zeros" in capsys.readouterr().err
    adapters.merge([(path, 0.5)], tmp_path / "sum.safetensors", None, None)
    assert "2 layers of zeros" in capsys.readouterr().err
    assert init_from.read(registry.detect(miniature), str(path)).notes == file.notes
    adapters.inspect(path, None, False)
    assert f"  - {LAYER}.lora_B.weight is zero" in capsys.readouterr().out


def test_names_of_save_attn_procs_are_those_of_the_denoiser(wide, layers, miniature, tmp_path):
    attention = {name: value for name, value in wide.items() if re.search(r"^unet.*attn\d\.to_", name)}
    bare = {name.removeprefix("unet."): value for name, value in old_dialect(attention).items()}
    path = saved(bare, tmp_path / "pytorch_lora_weights.safetensors")
    same(reader.read(path, layers).tensors, attention)
    with pytest.raises(ConfigError, match="--base"):
        reader.read(path, None)


def test_a_bundled_embedding_is_left_out_with_a_note(wide, layers, tmp_path):
    tensors = kohya.to_kohya(wide, SD, {}) | {"bundle_emb.sks dog.clip_l": torch.ones(2, 32)}
    file = reader.read(saved(tensors, tmp_path / "x.safetensors"), layers)
    same(file.tensors, wide)
    assert file.notes == ("the embedding 'sks dog', which the file carries too, is left out",)
    only = saved({"bundle_emb.sks.clip_l": torch.ones(2, 32)}, tmp_path / "y.safetensors")
    with pytest.raises(CheckpointError, match="holds nothing that can be read as an adapter: the embedding 'sks'"):
        reader.read(only, None)


@pytest.mark.parametrize("dialect", ["kohya", "old diffusers", "diffusers"])
def test_kernels_of_1_x_1_are_those_the_base_has(wide, layers, tmp_path, dialect):
    """kohya's files of SD 2.x have them where the base's proj_in and proj_out are linear."""
    flat = {part: dict(shapes) for part, shapes in layers.items()}
    names = [name for name in flat["unet"] if name.endswith(("proj_in", "proj_out"))]
    flat["unet"] |= {name: flat["unet"][name][:2] for name in names}
    linear = {name: v.flatten(1) if re.search(r"\.proj_(in|out)\.", name) else v for name, v in wide.items()}
    written = {"kohya": lambda t: kohya.to_kohya(t, SD, {}), "old diffusers": old_dialect, "diffusers": dict}[dialect]
    assert names
    same(reader.read(saved(written(wide), tmp_path / "x.safetensors"), flat).tensors, linear)
    same(reader.read(saved(written(linear), tmp_path / "y.safetensors"), layers).tensors, wide)


def test_tuckers_decomposition_is_a_lora(layers, tmp_path):
    """W = up mid down, where mid has the kernel: A is mid times down, exactly."""
    up, mid, down = torch.randn(32, 3, 1, 1), torch.randn(3, 3, 3, 3), torch.randn(3, 32, 1, 1)
    stem = "lora_unet_mid_block_resnets_0_conv1"
    written = {f"{stem}.lora_up.weight": up, f"{stem}.lora_mid.weight": mid, f"{stem}.lora_down.weight": down}
    written[f"{stem}.alpha"] = torch.tensor(1.5)
    found = pairs(reader.read(saved(written, tmp_path / "x.safetensors"), layers).tensors)
    a, b = found["unet.mid_block.resnets.0.conv1"]
    x = torch.randn(1, 32, 5, 5)
    inner = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, down), mid, padding=1)
    expected = torch.nn.functional.conv2d(inner, up) * 0.5
    found = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, a, padding=1), b)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


KINDS = {
    "lora_unet_conv_in.lokr_w1": "a LoKr",
    "lora_unet_conv_in.lokr_w2_a": "a LoKr",
    "lora_unet_conv_in.hada_w1_a": "a LoHa",
    "lora_unet_double_blocks_0_img_attn_qkv.oft_blocks": "an OFT",
    "oft_unet_conv_in.oft_diag": "an OFT",
    "lora_unet_conv_in.dora_scale": "a DoRA as kohya's scripts",
    "lora_unet_conv_in.a1.weight": "a GLoRA",
    "lora_unet_conv_in.on_input": "an IA3",
    "double_blocks.0.img_attn.norm.query_norm.scale": "a control LoRA",
    "lora_controlnet": "a control LoRA",
    "double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": "an IP-Adapter",
    "diffusion_model.input_blocks.0.0.diff": "whole differences of weights",
}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_lora_is_called_by_its_kind(layers, tmp_path, name):
    tensors = {name: torch.ones(2, 2)}
    if not name.endswith(".diff"):
        tensors |= pair("lora_unet_conv_out", 4, 16)
    for given in (layers, None):
        with pytest.raises(CheckpointError, match=f"{KINDS[name]}.*{name}") as caught:
            reader.parse(saved(tensors, tmp_path / "x.safetensors"), given)
        assert "\n" not in str(caught.value)


PAGES = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n": "is a Git LFS pointer",
    b"\n <!DOCTYPE html>\n<html><head></head></html>": "is a web page (HTML)",
    b"<html>": "is a web page (HTML)",
}


@pytest.mark.parametrize("content", PAGES, ids=["pointer", "page", "short page"])
def test_what_a_failed_download_left_is_called_what_it_is(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(PAGES[content])) as caught:
        reader.read(path, None)
    assert str(path) in str(caught.value)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}), encoding="utf-8")
    path.rename(tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=re.escape(PAGES[content])):
        reader.read(tmp_path, None)


@pytest.mark.parametrize("with_text", [False, True])
def test_an_adapter_of_the_text_encoder_alone_gets_one_right_sentence(family, layers, tmp_path, with_text):
    path = saved(text_layers("lora_te_"), tmp_path / "x.safetensors")
    assert len(pairs(reader.read(path, layers).tensors)) == 2
    options = AdapterOptions(init_lora=str(path), train_text_encoder=with_text)
    pipe = family.load("unet", "text_encoder")
    models = {"unet": pipe.unet} | ({"text_encoder": pipe.text_encoder} if with_text else {})
    with pytest.raises(ConfigError, match="adapts text_encoder alone and has no layer of the unet") as caught:
        init_from.chosen(family, models, options)
    assert "\n" not in str(caught.value)


def test_comfyuis_names_of_a_unet_are_read(miniature_of, tmp_path):
    """'diffusion_model.' before the original names, 'text_encoders.clip_l.' before those of CLIP."""
    folder = miniature_of("sdxl")
    shapes = layer_shapes(registry.detect(folder))
    stem, layer = "input_blocks.1.0.emb_layers.1", "down_blocks.0.resnets.0.time_emb_proj"
    written = pair(f"diffusion_model.{stem}", *shapes["unet"][layer])
    written |= text_layers("text_encoders.clip_l.transformer.", dot=".")
    found = additions(reader.read(saved(written, tmp_path / "x.safetensors"), shapes).tensors)
    kohyas = pair(f"lora_unet_{stem.replace('.', '_')}", *shapes["unet"][layer])
    kohyas = dict(zip(kohyas, list(written.values())[:2], strict=True))
    text = text_layers("lora_te1_")
    kohyas |= dict(zip(text, list(written.values())[2:], strict=True))
    assert_same(found, loaded_by_stock(folder, saved(kohyas, tmp_path / "y.safetensors")))
    assert f"unet.{layer}" in found
