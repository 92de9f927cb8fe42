"""An adapter that was made for another model is refused in one sentence, in whatever dialect it is."""

import re

import pytest
import torch
from safetensors.torch import save_file

from pipeline.adapter.files import kohya, reader
from pipeline.errors import CheckpointError
from pipeline.families import miniature as miniatures
from pipeline.families import registry
from pipeline.families.meta import layer_shapes
from tests.adapter.dialects import SD, old_dialect
from tests.adapter.real_models import MODELS, published

pytestmark = pytest.mark.contract
WRITTEN = {
    "diffusers": lambda tensors: tensors,
    "old diffusers": old_dialect,
    "kohya": lambda tensors: kohya.to_kohya(tensors, SD, {}),
}


@pytest.fixture(scope="module")
def other_layers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other") / "sdxl"
    miniatures.write("sdxl", folder)
    return layer_shapes(registry.detect(folder))


@pytest.mark.parametrize("only", ["unet.", "", "text_encoder."], ids=["denoiser", "both", "text encoder"])
@pytest.mark.parametrize("dialect", WRITTEN)
def test_another_model_is_one_sentence(wide, other_layers, tmp_path, dialect, only):
    own = {name: value for name, value in wide.items() if name.startswith(only)}
    save_file(WRITTEN[dialect](own), tmp_path / "x.safetensors")
    if only == "text_encoder.":  # SDXL's first is the same
        assert reader.read(tmp_path / "x.safetensors", other_layers).tensors.keys() == own.keys()
        return
    with pytest.raises(CheckpointError, match="another model") as caught:
        reader.read(tmp_path / "x.safetensors", other_layers)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_other_widths_are_one_sentence_with_both_numbers(wide, layers, tmp_path):
    changed = {part: dict(shapes) for part, shapes in layers.items()}
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    changed["unet"][name] = (32, 48)
    own = {"old diffusers": name.replace(".to_k", ".processor.to_k"), "kohya": name.replace(".", "_")}
    for dialect, written in WRITTEN.items():
        save_file(written(wide), tmp_path / "x.safetensors")
        with pytest.raises(CheckpointError) as caught:
            reader.read(tmp_path / "x.safetensors", changed)
        sentence = (
            rf"is for another model: it has 32 inputs at \w*unet[._]{own.get(dialect, name)} where this base has 48"
        )
        assert re.search(sentence, str(caught.value)), dialect
    changed["unet"][name], changed["unet"]["conv_in"] = (32, 32), (16, 4, 5, 5)
    with pytest.raises(CheckpointError, match=r"it has 3 x 3 kernel at lora_unet_conv_in where this base has 5 x 5"):
        reader.read(tmp_path / "x.safetensors", changed)


@pytest.mark.parametrize("dialect", WRITTEN)
def test_a_model_with_none_of_the_layers_is_one_sentence(wide, layers, tmp_path, dialect):
    save_file(WRITTEN[dialect](wide), tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"8 of its 8 layers, such as \S+, are not in this base\.$") as caught:
        reader.read(tmp_path / "x.safetensors", {"unet": layers["unet"], "text_encoder": {"other": (1, 1)}})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("targets", ["attention", "wide"])
def test_published_sd_and_sdxl_are_told_apart_in_kohyas_dialect(tmp_path, targets):
    """At the real sizes, where half of the names of one exist in the other."""
    shapes = {
        model: {
            part: {
                layer: tuple(module.weight.shape)
                for layer, module in published(name).named_modules()
                if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
            }
            for part, name in MODELS[model][0].items()
        }
        for model in MODELS
    }
    for model, other in (("sd15", "sdxl"), ("sdxl", "sd15")):
        tensors = {
            f"{part}.{name}.lora_{kind}.weight": torch.ones(1).expand(size)
            for part, layers in shapes[model].items()
            for name, shape in layers.items()
            if targets == "wide" or re.search(r"to_[qkv]|to_out|[qkv]_proj|out_proj", name)
            for kind, size in (("A", (1, *shape[1:])), ("B", (shape[0], 1, *[1] * len(shape[2:]))))
        }
        written = kohya.to_kohya(tensors, MODELS[model][1], {})
        save_file({name: value.half().contiguous() for name, value in written.items()}, tmp_path / "x.safetensors")
        assert reader.read(tmp_path / "x.safetensors", shapes[model]).tensors.keys() == tensors.keys()
        with pytest.raises(CheckpointError, match="another model") as caught:
            reader.read(tmp_path / "x.safetensors", shapes[other])
        assert "\n" not in str(caught.value)
