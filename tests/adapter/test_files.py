"""Adapters in every dialect: what they mean once read."""

import dataclasses
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from pipeline.adapter import lora
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.files import kohya, peft_config, reader, writer
from pipeline.adapter.files.ldm_names import ldm_names
from pipeline.adapter.names import as_in_files, pairs
from pipeline.errors import ConfigError
from pipeline.families import registry
from pipeline.families.meta import layer_shapes
from tests.adapter.dialects import SD, old_dialect
from tests.adapter.learnt import KINDS, learnt, outputs, same, stock, with_header

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module", params=KINDS)
def adapted(request, family):
    """Of every kind, not to be changed."""
    return learnt(family, with_text=request.param != "dora", **KINDS[request.param])


@pytest.mark.parametrize("given", [True, False], ids=["base given", "no base"])
def test_our_file_is_read_as_it_is(adapted, layers, tmp_path, given):
    path = writer.write(tmp_path, adapted, '{"step": 3}')
    for place in (path, tmp_path):
        file = reader.read(place, layers if given else None)
        assert (file.format, file.header, file.path) == ("diffusers", {"t2i_lora": '{"step": 3}'}, path)
        written = writer.state_dict(adapted) if given else load_file(path)
        assert file.tensors.keys() == written.keys()
        assert all(torch.equal(file.tensors[name], value) for name, value in written.items())
        assert file.alphas == {name: float(len(a)) for name, (a, _) in pairs(written).items()}


def alphas_of(adapted: AdaptedModels) -> dict[str, float]:
    tensors = writer.state_dict(adapted)
    return {
        f"{component}.{name}": scale * len(tensors[f"{component}.{name}.lora_A.weight"])
        for component, model in adapted.models.items()
        for name, scale in lora.scales(model).items()
    }


def test_what_diffusers_notes_in_the_header_is_honoured(adapted, layers, tmp_path):
    path = with_header(adapted, tmp_path)
    assert not torch.equal(
        *(tensors["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight"]
          for tensors in (load_file(path), writer.state_dict(adapted)))
    )  # fmt: skip
    file = reader.read(path, layers)
    same(file.tensors, writer.state_dict(adapted))
    assert file.alphas == pytest.approx(alphas_of(adapted))
    assert reader.read(path, None).alphas == as_in_files(file.alphas)


def test_diffusers_predicts_the_same_from_its_own_file_and_from_what_we_read(family, layers, tmp_path):
    path = with_header(learnt(family, **KINDS["rslora"]), tmp_path)
    (tmp_path / "b").mkdir()
    save_file(reader.read(path, layers).tensors, tmp_path / "b" / "read.safetensors")
    base, own, read = (
        outputs(stock(family.source.folder, f)) for f in (None, path, tmp_path / "b" / "read.safetensors")
    )
    assert (own - base).norm() > 0.05 * base.norm()
    assert (own - read).norm() <= 1e-5 * (own - base).norm()


def test_a_folder_of_peft_is_read(family, adapted, layers, tmp_path):
    """Saved by PEFT itself, with everything of a LoraConfig that changes the strength."""
    adapted = AdaptedModels({"unet": adapted.denoiser})
    expected, alphas = writer.state_dict(adapted), alphas_of(adapted)
    config = adapted.denoiser.peft_config["default"]
    plain = family.load("unet").unet
    model = get_peft_model(plain, LoraConfig(**{
        field: getattr(config, field)
        for field in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_rslora", "use_dora")
    }))  # fmt: skip
    trained = lora.parameters(adapted.denoiser)
    for name, value in lora.parameters(model).items():
        value.data = trained[name.removeprefix("base_model.model.")].data
    model.save_pretrained(tmp_path)
    for given in (layers, None):
        file = reader.read(tmp_path, given)
        assert file.format == "peft"
        same(file.tensors, expected)
        assert file.alphas == pytest.approx(alphas)
    assert reader.read(tmp_path / "adapter_model.safetensors", layers).tensors.keys() == expected.keys()
    assert json.loads(file.header["adapter_config.json"])["peft_type"] == "LORA"


def test_a_folder_of_peft_for_a_text_encoder_is_one(family, layers, tmp_path):
    adapted = learnt(family, **KINDS["alpha"])
    adapted.models["text_encoder"].save_pretrained(tmp_path)
    expected = {name: v for name, v in writer.state_dict(adapted).items() if name.startswith("text_encoder.")}
    for given, names in ((layers, expected), (None, as_in_files(expected))):
        same(reader.read(tmp_path, given).tensors, names)


def test_kohyas_names_are_read(wide, layers, tmp_path):
    alphas = {name: 0.5 + number % 7 for number, name in enumerate(pairs(wide))}
    for first in ("lora_te", "lora_te1"):
        tensors = kohya.to_kohya(wide, SD | {"text_encoder": first}, alphas)
        save_file(tensors, tmp_path / "x.safetensors", metadata={"ss_steps": "7"})
        file = reader.read(tmp_path / "x.safetensors", layers)
        same(file.tensors, wide)
        assert file.alphas == pytest.approx(alphas)
        assert (file.format, file.header) == ("kohya", {"ss_steps": "7"})
    with pytest.raises(ConfigError, match="--base"):
        reader.read(tmp_path / "x.safetensors", None)


def test_the_original_names_in_kohyas_files_are_read(wide, layers, tmp_path):
    """As kohya's script for SDXL writes them."""
    original = ldm_names(layers["unet"])
    own = {}
    for name, value in wide.items():
        part, _, rest = name.partition(".")
        layer, _, kind = rest.rpartition(".lora_")
        own[f"{part}.{original[layer]}.lora_{kind}" if part == "unet" else name] = value
    save_file(kohya.to_kohya(own, SD, {}), tmp_path / "x.safetensors")
    same(reader.read(tmp_path / "x.safetensors", layers).tensors, wide)


def test_the_old_names_of_diffusers_are_read(wide, layers, tmp_path):
    save_file(old_dialect(wide), tmp_path / "x.safetensors")
    file = reader.read(tmp_path / "x.safetensors", layers)
    assert file.format == "old diffusers"
    same(file.tensors, wide)
    settings = {f"{part}.{name}": value for part in SD for name, value in (("r", 3), ("lora_alpha", 6))}
    save_file(old_dialect(wide), tmp_path / "x.safetensors", metadata={reader.HEADER_CONFIG: json.dumps(settings)})
    file = reader.read(tmp_path / "x.safetensors", layers)
    same(file.tensors, {name: v * 2 if name.endswith("lora_B.weight") else v for name, v in wide.items()})
    assert set(file.alphas.values()) == {6.0}
    with pytest.raises(ConfigError, match="--base"):
        reader.read(tmp_path / "x.safetensors", None)


def test_of_several_patterns_the_one_that_peft_takes_counts():
    patterns = {"to_q": 1, "attn1.to_q": 2, "mid.*to_k": 3, "^a.attn1.to_k": 4, "q": 5, "a.attn1.to_.": 6, "to_v$": 7}
    scaling = peft_config.scaling_of({"r": 8, "lora_alpha": 9, "alpha_pattern": patterns})
    names = ["a.attn1.to_q", "b.attn1.to_q", "mid.x.to_k", "a.attn1.to_k", "b.attn1.to_k", "q", "a.q", "a.attn1.to_v"]
    for name in names:
        expected = patterns.get(get_pattern_key(list(patterns), name), 9)
        assert scaling.alpha_of(name, 8) == expected, name
    assert [scaling.alpha_of(name, 8) for name in names] == [1, 1, 3, 4, 9, 5, 5, 6]


def test_both_names_of_clips_layers_mean_the_same(wide, layers, tmp_path):
    """transformers 4 wrote text_model., transformers 5 does not."""
    older = {name.replace("text_encoder.", "text_encoder.text_model."): value for name, value in wide.items()}
    settings = {f"{part}.{name}": 3 for part in SD for name in ("r", "lora_alpha")}
    settings["text_encoder.alpha_pattern"] = {"^text_model.encoder.layers.0.self_attn.q_proj": 6}
    save_file(older, tmp_path / "x.safetensors", metadata={reader.HEADER_CONFIG: json.dumps(settings)})
    read = reader.read(tmp_path / "x.safetensors", layers)
    assert read.tensors.keys() == wide.keys()
    assert {name for name, alpha in read.alphas.items() if alpha == 6} == {
        "text_encoder.encoder.layers.0.self_attn.q_proj"
    }


def test_alphas_beside_diffusers_names_are_honoured(wide, layers, tmp_path):
    alphas = {f"{name}.alpha": torch.tensor(6.0) for name in pairs(wide)}
    save_file(wide | alphas, tmp_path / "x.safetensors")
    file = reader.read(tmp_path / "x.safetensors", layers)
    same(file.tensors, {name: v * 2 if name.endswith("lora_B.weight") else v for name, v in wide.items()})
    assert set(file.alphas.values()) == {6.0}


def test_half_precision_stays_half_precision(wide, layers, tmp_path):
    save_file({name: value.bfloat16() for name, value in wide.items()}, tmp_path / "x.safetensors")
    assert {value.dtype for value in reader.read(tmp_path / "x.safetensors", layers).tensors.values()} == {
        torch.bfloat16
    }


@pytest.mark.parametrize("name", registry.NAMES)
def test_the_shapes_are_those_of_the_loaded_models(miniature_of, name):
    family = registry.detect(miniature_of(name))
    pipe = family.load(family.denoiser, *family.trainable_encoders)
    expected = {
        part: {
            layer: tuple(module.weight.shape)
            for layer, module in getattr(pipe, part).named_modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        }
        for part in (family.denoiser, *family.trainable_encoders)
    }
    assert layer_shapes(family) == expected


def test_an_adapter_file_cannot_be_changed(wide, layers, tmp_path):
    save_file(wide, tmp_path / "x.safetensors")
    with pytest.raises(dataclasses.FrozenInstanceError):
        reader.read(tmp_path / "x.safetensors", layers).format = "kohya"
