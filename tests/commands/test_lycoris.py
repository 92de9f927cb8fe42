"""LoHa and LoKr through export --rank: what PEFT's own layers add, and the loss that is said."""

import re

import peft
import pytest
import torch

from pipeline.adapter.files import reader
from pipeline.commands import adapters
from pipeline.errors import CheckpointError
from pipeline.families import registry
from pipeline.families.meta import layer_shapes
from tests.adapter.foreign_files import additions, assert_same, saved

pytestmark = pytest.mark.reference
LAYER = "mid_block.attentions.0.transformer_blocks.0.ff.net.2"
CONV = "mid_block.resnets.0.conv1"
CONFIGS = {
    "LoHa": peft.LoHaConfig(r=2, alpha=3, target_modules=["0"], init_weights=False),
    "LoKr": peft.LoKrConfig(r=2, alpha=3, target_modules=["0"], init_weights=False, decompose_factor=4),
    "LoKr of four": peft.LoKrConfig(r=1, alpha=3, target_modules=["0"], init_weights=False, decompose_both=True),
}


def made(kind, shape) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The parts of a layer as PEFT has them, and what they add to its weight."""
    torch.manual_seed(0)
    base = torch.nn.Linear(shape[1], shape[0]) if len(shape) == 2 else torch.nn.Conv2d(shape[1], shape[0], shape[2:])
    layer = peft.get_peft_model(torch.nn.Sequential(base), CONFIGS[kind]).base_model.model[0]
    parts = {
        name.replace(".default", ""): value.detach()
        for name, value in layer.named_parameters()
        if name.startswith(("hada", "lokr"))
    }
    return parts, layer.get_delta_weight("default").detach()


@pytest.mark.parametrize("layer", [LAYER, CONV])
@pytest.mark.parametrize("kind", CONFIGS)
def test_at_a_rank_that_is_enough_it_is_what_peft_adds(miniature, tmp_path, capsys, kind, layer):
    shapes = layer_shapes(registry.detect(miniature))
    parts, expected = made(kind, shapes["unet"][layer])
    stem = f"lora_unet_{layer.replace('.', '_')}"
    tensors = {f"{stem}.{name}": value for name, value in parts.items()} | {f"{stem}.alpha": torch.tensor(3.0)}
    path = saved(tensors, tmp_path / "x.safetensors")
    adapters.export(path, tmp_path / "y.safetensors", "diffusers", miniature, rank=300)
    found = additions(reader.read(tmp_path / "y.safetensors", shapes).tensors)
    assert_same(found, {f"unet.{layer}": expected.flatten(1)}, 1e-5)
    assert re.search(r"of 1 layers made a LoRA of rank 300: 0\.00% of it lost", capsys.readouterr().err)
    adapters.export(path, tmp_path / "z.safetensors", "diffusers", miniature, rank=1)
    (said,) = re.findall(r"rank 1: ([\d.]+)% of it lost", capsys.readouterr().err)
    small = additions(reader.read(tmp_path / "z.safetensors", shapes).tensors)[f"unet.{layer}"]
    off = (small - expected.flatten(1)).norm() / expected.norm()
    assert float(said) == pytest.approx(100 * float(off), abs=0.01)
    with pytest.raises(CheckpointError, match=r"export --rank makes one of it"):
        reader.read(path, shapes)


def test_half_a_lokr_is_named(miniature, tmp_path):
    path = saved({"lora_unet_conv_in.lokr_w1": torch.ones(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="the parts of lora_unet_conv_in make no LoHa or LoKr"):
        adapters.export(path, tmp_path / "y.safetensors", "diffusers", miniature, rank=2)
