"""What is said of an adapter: right in numbers, and readable."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.adapter import lora
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.files import kohya, reader, summary, writer
from pipeline.adapter.names import as_in_files, pairs
from pipeline.adapter.options import AdapterOptions
from pipeline.families import miniature as miniatures
from pipeline.families import registry
from pipeline.families.meta import layer_shapes
from tests.adapter.dialects import SD
from tests.adapter.learnt import KINDS, learnt
from tests.adapter.real_models import layers, published
from tests.conftest import attach

pytestmark = pytest.mark.unit


def said_of(tensors, tmp_path, header=None, shapes=None) -> dict:
    save_file(tensors, tmp_path / "x.safetensors", metadata=header)
    return summary.summary(reader.parse(tmp_path / "x.safetensors", shapes))


def test_every_number_is_right(family, tmp_path):
    adapted = learnt(family, rank=3, lora_layers="all-linear+conv", rank_pattern="mid_block.*=2")
    tensors = as_in_files(writer.state_dict(adapted))
    said = summary.summary(reader.parse(writer.write(tmp_path, adapted, '{"step": 40, "version": "0.3"}'), None))
    assert said["format"] == "diffusers"
    assert said["family"] == "sd"
    assert (said["dora"], said["dtypes"], said["problems"]) == (False, ["float32"], [])
    assert said["num_parameters"] == sum(value.numel() for value in adapted.parameters().values())
    assert said["facts"] == {"step": "40", "t2i_lora_version": "0.3"}
    unet, text = said["components"]["unet"], said["components"]["text_encoder"]
    kinds = [type(module) for module in family.load("unet").unet.modules()]
    assert (unet["linear"], unet["convolutional"]) == (kinds.count(torch.nn.Linear), kinds.count(torch.nn.Conv2d))
    assert (unet["layers"], unet["ranks"], unet["alphas"], unet["scales"]) == (83, [2, 3], [2.0, 3.0], [1.0])
    assert (text["layers"], text["linear"], text["ranks"], text["dora"]) == (8, 8, [3], False)
    assert text["targets"] == [f"self_attn.{name}_proj" for name in ("k", "out", "q", "v")]
    assert {"attn1.to_out.0", "attn2.to_k", "ff.net.0.proj", "conv1", "time_embedding.linear_1"} <= set(unet["targets"])
    assert unet["num_parameters"] + text["num_parameters"] == said["num_parameters"]
    sizes: dict[str, float] = {}
    for name, (a, b) in pairs(tensors).items():
        words = name.split(".")
        depth = 5 if words[0] == "text_encoder" else 3 if words[1].endswith("blocks") else 2
        size = float((b.double().flatten(1) @ a.double().flatten(1)).square().sum())
        sizes[".".join(words[:depth])] = sizes.get(".".join(words[:depth]), 0.0) + size
    assert {
        "unet.down_blocks.0",
        "unet.mid_block",
        "unet.conv_in",
        "text_encoder.text_model.encoder.layers.1",
    } <= sizes.keys()
    assert said["blocks"] == pytest.approx({block: math.sqrt(size) for block, size in sizes.items()}, rel=1e-9)
    assert json.loads(json.dumps(said, allow_nan=False)) == said


def test_alphas_and_scales_are_those_of_the_file(family, tmp_path):
    tensors = writer.state_dict(learnt(family, **KINDS["alpha"]))
    said = said_of(kohya.to_kohya(tensors, SD, dict.fromkeys(pairs(tensors), 10.0)), tmp_path, None,
                   layer_shapes(family))  # fmt: skip
    unet = said["components"]["unet"]
    assert (said["format"], unet["alphas"], unet["scales"]) == ("kohya", [10.0], [2.5])
    assert "rank 4, alpha 10, so scaled by 2.5" in summary.text(said)


@pytest.mark.parametrize("name", registry.NAMES)
@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_the_family_of_a_miniature_is_guessed(tmp_path, name, targets):
    miniatures.write(name, tmp_path / "model")
    family = registry.detect(tmp_path / "model")
    denoiser = getattr(family.load(family.denoiser), family.denoiser)
    attach(denoiser, AdapterOptions(rank=2, lora_layers=targets), family.targets)
    for value in lora.parameters(denoiser).values():
        value.data += 0.1
    path = writer.write(tmp_path, AdaptedModels({family.denoiser: denoiser}), "{}")
    assert summary.summary(reader.read(path, None))["family"] == name


PUBLISHED = {"sd15": "sd", "sd21": "sd", "sdxl": "sdxl", "sd35_medium": "sd3", "flux_dev": "flux"}
PARTS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "text": ("attn2.to_k", "attn2.to_v"),
    "middle": ("mid_block.attentions.0.transformer_blocks.0.attn2.to_k", "transformer_blocks.3.attn.to_q"),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("model", PUBLISHED)
def test_the_family_of_a_published_model_is_guessed_from_a_part_of_its_layers(model, part):
    denoiser = published(model)
    component = "unet" if model.startswith("sd") and "35" not in model else "transformer"
    tensors = {}
    for name, module in layers(denoiser).items():
        if name.endswith(PARTS[part]):
            tensors[f"{component}.{name}.lora_A.weight"] = torch.empty(1, *module.weight.shape[1:], device="meta")
            ones = [1] * (module.weight.ndim - 2)
            tensors[f"{component}.{name}.lora_B.weight"] = torch.empty(len(module.weight), 1, *ones, device="meta")
    if tensors:
        assert summary.family_of(tensors) == PUBLISHED[model]


def test_what_is_no_known_family_is_unknown():
    assert summary.family_of({}) == "unknown"
    pair = {"A": torch.ones(1, 7), "B": torch.ones(7, 1)}
    for layer in ("unet.mid_block.x.attn2.to_k", "transformer.blocks.0.to_q", "text_encoder.encoder.layers.0.fc1"):
        assert summary.family_of({f"{layer}.lora_{kind}.weight": value for kind, value in pair.items()}) == "unknown"


def test_problems_are_listed_and_do_not_stop_the_rest(family, tmp_path):
    tensors = {name: value.clone() for name, value in writer.state_dict(learnt(family, rank=2)).items()}
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_{}.lora_B.weight"
    tensors[name.format("q")].zero_()
    tensors[name.format("k")][0, 0] = float("nan")
    tensors[name.format("v").replace("lora_B.weight", "alpha")] = torch.tensor(5000.0)
    header = {
        "ss_train_data_dir": "/home/mary/cats",
        "modelspec.title": "Cats",
        "t2i_lora": '{"to": "C:\\\\Users\\\\m"}',
    }
    said = said_of(tensors, tmp_path, header)
    whole = "\n".join(said["problems"])
    for text in (f"{name.format('q')} is zero", f"{name.format('k')} is not finite", "alpha is 5000 at rank 2"):
        assert whole.count(text) == 1, text
    assert "ss_train_data_dir names a private place: '/home/mary/cats'" in whole
    assert "t2i_lora names a private place: 'C:" in whole
    assert len(said["problems"]) == 5
    assert said["blocks"]["unet.mid_block"] is None
    assert said["blocks"]["unet.up_blocks.1"] > 0
    json.dumps(said, allow_nan=False)
    shown = summary.text(said)
    assert any(line.split() == ["unet.mid_block", "not", "finite"] for line in shown.splitlines())
    assert "Problems\n  - " in shown


@pytest.mark.parametrize(
    "value",
    [
        "https://huggingface.co/home/user/model", "user/model", "a cat in /style/", "1.5/2", "sd_v1-5", "and/or",
        "data:image/jpeg;base64,/home/mary/4AAQ", "http://a.b/data/c", "w: 1",
    ],
)  # fmt: skip
def test_what_is_no_private_place_is_none(value):
    assert summary._private({"x": value}) == []


@pytest.mark.parametrize(
    "value", ["/home/mary/x", '{"a": "/media/disk/x"}', "~/x", "file:///srv/x", "D:/x", "\\\\nas\\x", "in /tmp/a b"]
)
def test_private_places_are_found(value):
    assert len(summary._private({"x": value})) == 1


def test_facts_come_from_every_kind_of_header():
    kohyas = {"modelspec.trigger_phrase": "sks", "modelspec.license": "MIT", "ss_steps": "9", "ss_output_name": "o"}
    assert summary.facts_of(kohyas) == {"trigger": "sks", "licence": "MIT", "step": "9", "title": "o"}
    ours = {"t2i_lora": json.dumps({"family": "sd", "step": 3, "rank": 4, "version": "1", "trigger_word": "w"})}
    assert summary.facts_of(ours) == {"family": "sd", "step": "3", "t2i_lora_version": "1", "trigger": "w"}
    pefts = {"unet/adapter_config.json": json.dumps({"base_model_name_or_path": "user/model", "r": 3})}
    assert summary.facts_of(pefts) == {"base_model": "user/model"}
    for broken in ("{", "[]", "7", '{"step": [1]}'):
        assert summary.facts_of({"t2i_lora": broken}) == {}


def test_the_text_is_compact_and_harmless(family, tmp_path):
    """Escape sequences from a header must not reach a terminal."""
    adapted = learnt(family, rank=4, lora_alpha=4.0, use_dora=True, with_text=False)
    header = {"modelspec.title": "a\x1b[2Jb\nc", "modelspec.trigger_phrase": "x" * 5000}
    said = said_of({n: v.clone() for n, v in writer.state_dict(adapted).items()}, tmp_path, header)
    shown = summary.text(said)
    assert "a?[2Jb?c" in shown
    assert "\x1b" not in shown
    lines = shown.splitlines()
    assert max(map(len, lines)) < 400
    assert len(lines) < 25
    assert lines[0].startswith("Adapter  ")
    assert lines[-1] == "No problems"
    assert any(line.split() == ["family", "sd", "(by", "its", "layers)"] for line in lines)
    assert any(line.startswith("  DoRA") for line in lines)


def test_blocks_are_in_the_order_of_their_numbers():
    names = [f"transformer.transformer_blocks.{n}.attn.to_q" for n in (10, 2, 0)] + ["transformer.x_embedder"]
    pair = {"A": torch.ones(1, 3), "B": torch.ones(3, 1)}
    tensors = {f"{name}.lora_{kind}.weight": value for name in names for kind, value in pair.items()}
    file = reader.AdapterFile(tensors, dict.fromkeys(names, 1.0), "diffusers", {}, Path("x"))
    blocks = list(summary.summary(file)["blocks"])
    assert blocks == [f"transformer.transformer_blocks.{n}" for n in (0, 2, 10)] + ["transformer.x_embedder"]
