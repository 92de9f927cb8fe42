"""SDXL's file for ComfyUI, every layer of both encoders and of the UNet in it, as stock diffusers reads it."""

import re

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.files import arithmetic, kohya, reader, writer
from pipeline.adapter.files.ldm_names import ldm_names
from pipeline.adapter.names import pairs
from pipeline.adapter.options import AdapterOptions
from pipeline.families import miniature, registry
from pipeline.families.meta import layer_shapes
from pipeline.families.targets import CLIP_TEXT
from tests.adapter.dialects import SDXL
from tests.adapter.learnt import same
from tests.conftest import attach

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "sdxl"
    miniature.write("sdxl", folder)
    family = registry.detect(folder)
    pipe = family.load("unet", "text_encoder", "text_encoder_2")
    models = {name: getattr(pipe, name).eval() for name in ("unet", "text_encoder", "text_encoder_2")}
    for name, model in models.items():
        options = AdapterOptions(rank=2, lora_alpha=5.0, lora_layers="all-linear+conv")
        attach(model, options, family.targets if name == "unet" else CLIP_TEXT)
    for number, value in enumerate(AdaptedModels(models).parameters().values()):
        value.data += torch.randn(value.shape, generator=torch.Generator().manual_seed(number)) * 0.1
    return family, AdaptedModels(models)


def test_no_layer_is_lost_and_the_weights_it_adds_are_the_same(adapted, tmp_path):
    family, adapted = adapted
    canonical = writer.state_dict(adapted)
    alphas = writer.alphas_of(adapted, canonical)
    assert any("add_embedding.linear_1" in name for name in canonical)
    written = kohya.to_kohya(canonical, SDXL, alphas, ldm_names(layer_shapes(family)["unet"]))
    unet = {name.partition(".")[0] for name in written if name.startswith("lora_unet_")}
    original = r"lora_unet_(?:input_blocks|middle_block|output_blocks|time_embed|label_emb|out)_.*"
    assert all(re.fullmatch(original, name) for name in unet), "one scheme for the whole UNet"
    assert len(unet) == sum(
        isinstance(m, torch.nn.Linear | torch.nn.Conv2d) for m in family.load("unet").unet.modules()
    )
    save_file(written, tmp_path / "x.safetensors")
    pipe = DiffusionPipeline.from_pretrained(family.source.folder)
    pipe.load_lora_weights(tmp_path, weight_name="x.safetensors", adapter_name="x")
    loaded = {}
    for component in ("unet", "text_encoder", "text_encoder_2"):
        for name, layer in getattr(pipe, component).named_modules():
            if "x" in getattr(layer, "lora_A", {}):
                a, b = layer.lora_A["x"].weight, layer.lora_B["x"].weight * layer.scaling["x"]
                loaded[f"{component}.{name}"] = a.detach(), b.detach()
    expected = pairs(canonical)
    assert loaded.keys() == expected.keys()
    for name, pair in expected.items():
        assert arithmetic.distance(loaded[name], pair) <= 1e-6 * arithmetic.norm(*pair), name


@pytest.mark.parametrize("first", ["lora_unet_add_embedding_linear_1", "lora_unet_label_emb_0_0"])
def test_both_names_of_the_added_sizes_are_read(adapted, tmp_path, first):
    """The second is what we write; the first is what others made of diffusers' name."""
    family, adapted = adapted
    canonical = writer.state_dict(adapted)
    tensors = kohya.to_kohya(canonical, SDXL, writer.alphas_of(adapted, canonical))
    named = {name.replace("lora_unet_label_emb_0_0", first): value for name, value in tensors.items()}
    save_file(named, tmp_path / "x.safetensors")
    found = reader.read(tmp_path / "x.safetensors", layer_shapes(family)).tensors
    same(found, canonical)
