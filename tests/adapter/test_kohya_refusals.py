"""What kohya's dialect cannot say, or says wrongly, is refused: every wrong name at once, and DoRA."""

import pytest
import torch
from torch import nn

from pipeline.adapter.files import kohya
from pipeline.errors import CheckpointError, ConfigError
from tests.adapter import comfyui_rules
from tests.adapter.dialects import SD

pytestmark = pytest.mark.reference


def test_every_wrong_key_is_named_at_once(file, names):
    damaged = dict(file)
    damaged["lora_unet_conv_inn.lora_down.weight"] = damaged["lora_unet_conv_in.lora_down.weight"]
    damaged["lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha"] = torch.tensor(1.0)
    damaged["lora_unet_conv_in.hada_w1_a"] = torch.ones(1, 1)
    damaged["lora_unet_conv_in.dora_scale"] = torch.ones(16, 1, 1, 1)
    damaged["lora_unet_input_blocks_0_0.lora_down.weight"] = damaged["lora_unet_conv_in.lora_down.weight"]
    damaged["lora_unet_conv_out.alpha"] = torch.tensor(float("nan"))
    stem = "lora_unet_time_embedding_linear_"
    damaged[f"{stem}1.lora_up.weight"] = torch.ones(64, 7)
    del damaged[f"{stem}2.lora_up.weight"]
    wrong = [
        "lora_unet_conv_inn.lora_down.weight: the model has no such layer",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha: the model has no such layer",
        "lora_unet_conv_in.hada_w1_a: not a tensor of a plain LoRA",
        "lora_unet_conv_in.dora_scale: not a tensor of a plain LoRA",
        "lora_unet_input_blocks_0_0.lora_down.weight: the same as lora_unet_conv_in.lora_down.weight",
        "lora_unet_conv_out.alpha: must be one number that is not 0",
        f"{stem}1.lora_up.weight: [64, 7] does not fit",
        f"{stem}2.lora_down.weight: the layer lacks its up (B)",
        f"{stem}2.alpha: the layer lacks its up (B)",
    ]
    with pytest.raises(CheckpointError) as caught:
        kohya.from_kohya(damaged, SD, names)
    lines = str(caught.value).splitlines()
    assert [sum(line.startswith(f"  - {text}") for line in lines) for text in wrong] == [1] * len(wrong)
    assert len(lines) == 1 + len(wrong)


def test_what_is_no_canonical_adapter_is_named_at_once(canonical):
    damaged = dict(canonical)
    damaged["vae.conv_in.lora_A.weight"] = torch.ones(1, 1)
    damaged["unet.conv_in.lora_A.default.weight"] = torch.ones(1, 1)
    del damaged["unet.conv_out.lora_A.weight"]
    with pytest.raises(CheckpointError) as caught:
        kohya.to_kohya(damaged, SD, {"unet.time_embedding.linear_1": 0.0})
    for text in ("vae.conv_in", "lora_A.default", "unet.conv_out.lora_B.weight", "unet.time_embedding.linear_1: alpha"):
        assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) == 5


def test_two_layers_that_share_a_name_are_refused():
    tensors = {f"unet.{layer}.lora_{kind}.weight": torch.ones(1, 1) for layer in ("a.b_c", "a_b.c") for kind in "AB"}
    with pytest.raises(CheckpointError, match="lora_unet_a_b_c"):
        kohya.to_kohya(tensors, SD, {})


def test_dora_and_biases_are_refused(canonical):
    magnitude = "unet.conv_in.lora_magnitude_vector"
    with pytest.raises(ConfigError, match=magnitude):
        kohya.to_kohya(canonical | {magnitude: torch.ones(16)}, SD, {})
    bias = "unet.conv_in.lora_B.bias"
    with pytest.raises(ConfigError, match=bias):
        kohya.to_kohya(canonical | {bias: torch.ones(16)}, SD, {})


def test_dora_would_mean_something_else_in_comfyui():
    """The reason for the refusal: same tensors, same shapes, another norm."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(
        nn.Sequential(nn.Linear(6, 8, bias=False)),
        LoraConfig(r=2, lora_alpha=2, target_modules=["0"], use_dora=True, init_lora_weights=False),
    )
    layer = model.base_model.model[0]
    file = {
        "lora_unet_0.lora_down.weight": layer.lora_A["default"].weight.detach(),
        "lora_unet_0.lora_up.weight": layer.lora_B["default"].weight.detach(),
        "lora_unet_0.dora_scale": layer.lora_magnitude_vector["default"].weight.detach().reshape(8, 1),
    }
    base = layer.base_layer.weight.detach().clone()
    comfy = comfyui_rules.patched(base, file, "lora_unet_0")
    layer.merge()
    ours = layer.base_layer.weight.detach()
    assert (comfy - ours).norm() > 0.1 * (ours - base).norm()
    plain = {name: value for name, value in file.items() if not name.endswith("dora_scale")}
    whole = comfyui_rules.patched(base, plain, "lora_unet_0").norm(dim=1, keepdim=True)
    torch.testing.assert_close(comfy * base.norm(dim=1, keepdim=True) / whole, ours)
