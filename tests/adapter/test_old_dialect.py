"""The names that diffusers wrote before it took PEFT's are read."""

import pytest
import torch
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

from pipeline.adapter.files import kohya
from tests.adapter.dialects import old_dialect

pytestmark = pytest.mark.reference


def test_the_old_dialect_of_diffusers_is_read(canonical, names):
    read = kohya.from_old_diffusers(old_dialect(canonical), names)
    assert read.keys() == canonical.keys()
    assert all(torch.equal(read[name], value) for name, value in canonical.items())


def test_the_old_names_are_those_diffusers_converts_from(canonical):
    """Its own conversion of the UNet's part agrees, but for the processors, which another function removes."""
    old = {key: value for key, value in old_dialect(canonical).items() if key.startswith("unet.")}
    converted = convert_unet_state_dict_to_peft({key.replace(".processor", ""): value for key, value in old.items()})
    assert converted.keys() == {name for name in canonical if name.startswith("unet.")}


def test_still_older_names_of_the_text_encoder_are_read(names, canonical):
    name = "text_encoder.text_model.encoder.layers.1.self_attn.to_out_lora.{}.weight"
    layer = "text_encoder.encoder.layers.1.self_attn.out_proj"
    down, up = (canonical[f"{layer}.lora_{kind}.weight"] for kind in "AB")
    read = kohya.from_old_diffusers({name.format("down"): down, name.format("up"): up}, names)
    assert read.keys() == {f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"}
    assert torch.equal(read[f"{layer}.lora_A.weight"], down)
    assert torch.equal(read[f"{layer}.lora_B.weight"], up)
