"""kohya's names for the layers of real models, as ComfyUI looks for them and as diffusers converts from them.

`python -m tests.adapter.test_kohya` writes the golden lists anew.
"""

from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from pipeline.adapter.files import kohya
from pipeline.adapter.files.ldm_names import ldm_names
from pipeline.adapter.names import as_in_files, pairs
from tests.adapter import comfyui_rules
from tests.adapter.dialects import SD, SDXL
from tests.adapter.real_models import MODELS, TRANSFORMERS, adapter, config, layers, published

pytestmark = pytest.mark.reference
GOLDEN = Path(__file__).parent / "golden"
TEXT = (".q_proj", ".k_proj", ".v_proj", ".out_proj", ".fc1", ".fc2")  # what can be adapted of CLIP
JOINT = (".add_q_proj", ".add_k_proj", ".add_v_proj", ".to_add_out")
ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0", ".q_proj", ".k_proj", ".v_proj", ".out_proj")
NUM_PARAMETERS = {
    "sd15": 859_520_964,
    "sd21": 865_910_724,
    "sdxl": 2_567_463_684,
    "sd35_medium": 2_469_663_936 - 384 * 384 * 1536,  # the published file also holds the table of positions
    "flux_dev": 11_901_408_320,
    "sd15_text_encoder": 123_060_480,
    "sdxl_text_encoder_2": 694_659_840,
}


def real_file(model: str, targets: str) -> dict[str, torch.Tensor]:
    parts, prefixes = MODELS[model]
    tensors = {}
    for component, name in parts.items():
        chosen = {
            key: layer for key, layer in layers(published(name)).items() if targets == "wide" or key.endswith(ATTENTION)
        }
        tensors |= adapter(component, chosen, device="meta", rank=1)
    return kohya.to_kohya(
        tensors, prefixes, {}, ldm_names(list(layers(published("sdxl")))) if model == "sdxl" else None
    )


def canonical_file(model: str, targets: str) -> dict[str, torch.Tensor]:
    tensors = {}
    for component, name in TRANSFORMERS[model].items():
        ending = {"attention": ATTENTION + JOINT, "wide": TEXT if component != "transformer" else ""}[targets]
        chosen = {key: layer for key, layer in layers(published(name)).items() if key.endswith(ending)}
        tensors |= adapter(component, chosen, device="meta", rank=1)
    return as_in_files(tensors)


def stems(file: dict[str, torch.Tensor]) -> list[str]:
    return sorted({key.partition(".")[0] for key in file})


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_the_published_configurations_are_of_the_published_size(name):
    assert sum(value.numel() for value in published(name).parameters()) == NUM_PARAMETERS[name]


@pytest.mark.parametrize("targets", ["attention", "wide"])
@pytest.mark.parametrize("model", MODELS)
def test_the_names_of_real_models_are_the_golden_ones(model, targets):
    golden = (GOLDEN / f"{model}_{targets}.txt").read_text(encoding="utf-8").splitlines()
    assert stems(real_file(model, targets)) == golden


def comfyui(model: str) -> dict[str, comfyui_rules.Weight]:
    found = comfyui_rules.unet_stems(config(model)) | comfyui_rules.clip_stems(config("sd15_text_encoder"), "clip_l")
    if model == "sdxl":
        found |= comfyui_rules.clip_stems(config("sdxl_text_encoder_2"), "clip_g")
    return found


@pytest.mark.parametrize("model", MODELS)
def test_comfyui_finds_a_weight_of_the_right_shape_for_every_name(model):
    file, found = real_file(model, "wide"), comfyui(model)
    assert [stem for stem in stems(file) if stem not in found] == []
    for stem in stems(file):
        up, down = file[f"{stem}.lora_up.weight"], file[f"{stem}.lora_down.weight"]
        assert (up.shape[0], *down.shape[1:]) == found[stem].shape, stem
    weights = [found[stem].name for stem in stems(file)]
    assert len(set(weights)) == len(weights), "two names for one weight"


def test_comfyui_finds_stable_diffusion_2_too():
    tensors = adapter("unet", layers(published("sd21")), device="meta", rank=1)
    found = comfyui_rules.unet_stems(config("sd21"))
    file = kohya.to_kohya(tensors, SD, {})
    shapes = {
        stem: (file[f"{stem}.lora_up.weight"].shape[0], *file[f"{stem}.lora_down.weight"].shape[1:])
        for stem in stems(file)
    }
    assert shapes == {stem: found[stem].shape for stem in stems(file)}


@pytest.mark.parametrize("model", MODELS)
def test_comfyui_does_not_find_the_attention_of_a_canonical_unet_file(model):
    """Which is why there is a second file at all."""
    names = [f"unet.{name}" for name in layers(published(model)) if name.endswith(ATTENTION)]
    assert len(names) > 100
    assert not set(names) & set(comfyui(model))


RULES = {"sd35_medium": comfyui_rules.sd3_stems, "flux_dev": comfyui_rules.flux_stems}


@pytest.mark.parametrize("targets", ["attention", "wide"])
@pytest.mark.parametrize("model", RULES)
def test_the_names_in_a_canonical_file_are_the_golden_ones_and_comfyui_finds_each(model, targets):
    file, found = canonical_file(model, targets), RULES[model](config(model))
    for component, encoder in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        if component in TRANSFORMERS[model]:
            found |= comfyui_rules.clip_stems(config(TRANSFORMERS[model][component]), encoder)
    names = sorted(pairs(file))
    assert names == (GOLDEN / f"{model}_{targets}.txt").read_text(encoding="utf-8").splitlines()
    shapes = {name: (b.shape[0], *a.shape[1:]) for name, (a, b) in pairs(file).items()}
    assert shapes == {name: found[name].shape for name in names}


@pytest.mark.parametrize("model", RULES)
def test_comfyui_finds_every_layer_of_a_canonical_transformer_file(model):
    found = RULES[model](config(model))
    shapes = {f"transformer.{name}": tuple(layer.weight.shape) for name, layer in layers(published(model)).items()}
    assert shapes == {name: weight.shape for name, weight in found.items()}


@pytest.mark.parametrize("model", ["sd15", "sd21", "sdxl"])
def test_the_original_names_of_a_unet_are_those_diffusers_converts_from(model):
    names = ldm_names(list(layers(published(model))))
    assert names.keys() == layers(published(model)).keys()
    original = {
        f"model.diffusion_model.{name}.{kind}": torch.tensor(number)
        for number, name in enumerate(names.values())
        for kind in ("weight", "bias")
    }
    assert len(original) == 2 * len(names), "two layers under one name"
    converted = convert_ldm_unet_checkpoint(original, published(model).config)
    numbers = {key.removesuffix(".weight"): value.item() for key, value in converted.items() if key.endswith(".weight")}
    assert numbers == {layer: number for number, layer in enumerate(names)}


@pytest.mark.parametrize("model", ["sd15", "sd21", "sdxl"])
def test_comfyui_finds_the_same_weight_under_both_names_of_a_layer(model):
    found = comfyui_rules.unet_stems(config(model))
    for layer, name in ldm_names(list(layers(published(model)))).items():
        for stem in kohya.kohya_stems(layer, "lora_unet"):
            assert found[kohya.kohya_stem(name, "lora_unet")] == found[stem]


def test_a_file_of_kohyas_sdxl_script_is_understood():
    unet = layers(published("sdxl"))
    known = {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_k": (
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k"
        ),
        "lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj": (
            "mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj"
        ),
        "lora_unet_output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",
        "lora_unet_input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
        "lora_unet_output_blocks_0_0_skip_connection": "up_blocks.0.resnets.0.conv_shortcut",
    }
    tensors = adapter("unet", {name: unet[name] for name in known.values()}, device="meta")
    file = {}
    for stem, layer in known.items():
        file[f"{stem}.lora_down.weight"] = tensors[f"unet.{layer}.lora_A.weight"]
        file[f"{stem}.lora_up.weight"] = tensors[f"unet.{layer}.lora_B.weight"]
    read, alphas = kohya.from_kohya(file, SDXL, {"unet": list(unet)})
    assert read.keys() == tensors.keys()
    assert all(read[name].shape == tensors[name].shape for name in tensors)
    assert alphas.keys() == {f"unet.{layer}" for layer in known.values()}
    assert stems(file) == sorted(stem for stem in known if stem in comfyui("sdxl"))


if __name__ == "__main__":
    for model in MODELS:
        for targets in ("attention", "wide"):
            text = "\n".join(stems(real_file(model, targets))) + "\n"
            (GOLDEN / f"{model}_{targets}.txt").write_text(text, encoding="utf-8")
    for model in RULES:
        for targets in ("attention", "wide"):
            text = "\n".join(sorted(pairs(canonical_file(model, targets)))) + "\n"
            (GOLDEN / f"{model}_{targets}.txt").write_text(text, encoding="utf-8")
