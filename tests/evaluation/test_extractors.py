"""Vision models of transformers as extractors, on miniatures of the real architectures."""

import pytest
import torch
from PIL import Image

from pipeline.errors import CheckpointError
from pipeline.evaluation import looking
from pipeline.evaluation.extractors import photographs, table, vision
from pipeline.evaluation.picture_sets import keep
from tests.conftest import COLOURS

pytestmark = pytest.mark.unit
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
PICTURES = [Image.new("RGB", (40, 48), colour) for colour in COLOURS.values()]


def written(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def processor():
    from transformers import ViTImageProcessor

    return ViTImageProcessor(size={"height": 32, "width": 32})


def vit(folder, labels: list[str], seed: int = 0):
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    config = ViTConfig(**SIZES, intermediate_size=64, id2label=dict(enumerate(labels)), num_labels=len(labels))
    return written(folder, ViTForImageClassification(config), processor())


@torch.no_grad()
def test_dino_gives_its_first_token_after_the_last_norm(tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**SIZES, mlp_ratio=2)).eval()
    folder = written(tmp_path / "dino", model, processor())
    (found,) = table.by_name(folder, pictured={}, cache_dir=None, weights=None)
    values = processor()(PICTURES, return_tensors="pt").pixel_values
    assert torch.allclose(found.features(PICTURES), model(values).last_hidden_state[:, 0], atol=1e-5)
    assert (found.kind, found.name, found.is_scaled, found.captions) == ("vision", "dino", False, None)


@torch.no_grad()
def test_a_convolutional_one_gives_what_it_pools(tmp_path):
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetModel

    torch.manual_seed(0)
    model = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")).eval()
    pictures = ConvNextImageProcessor(size={"shortest_edge": 384})
    folder = written(tmp_path / "resnet", model, pictures)
    (found,) = table.by_name(folder, pictured={}, cache_dir=None, weights=None)
    rows = found.features(PICTURES)
    assert rows.shape == (8, 16)
    values = pictures(PICTURES, return_tensors="pt").pixel_values
    assert torch.allclose(rows, model(values).pooler_output.flatten(1), atol=1e-5)


@torch.no_grad()
def test_a_file_without_what_pools_is_read_by_its_first_token(tmp_path):
    """A classifier's file has no pooler: transformers makes one up by chance, another one each time."""
    from transformers import ViTModel

    folder = vit(tmp_path / "classifier", ["a", "b"])
    torch.manual_seed(1)
    first = vision.vision(folder, None)
    torch.manual_seed(2)
    second = vision.vision(folder, None)
    model = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    values = processor()(PICTURES, return_tensors="pt").pixel_values
    expected = model(values).last_hidden_state[:, 0]
    assert torch.allclose(first.features(PICTURES), expected, atol=1e-5)
    assert torch.equal(second.features(PICTURES), first.features(PICTURES))


def test_fields_without_a_pooler_are_averaged_over_positions():
    class Fields(torch.nn.Module):
        def forward(self, pixel_values):
            return type("Found", (), {"last_hidden_state": pixel_values[:, :, ::4, ::4]})

    rows = vision.rows_of(Fields(), pools=True)
    values = torch.rand(2, 3, 8, 8)
    assert torch.allclose(rows(values), values[:, :, ::4, ::4].mean((2, 3)))


def test_a_model_of_another_kind_is_refused_for_what_its_file_lacks(tmp_path):
    from transformers import ViTModel

    vit(tmp_path / "whole", ["score"])
    ViTModel.from_pretrained(tmp_path / "whole", add_pooling_layer=False).save_pretrained(tmp_path / "bare")
    processor().save_pretrained(tmp_path / "bare")
    with pytest.raises(CheckpointError, match=r"bare lacks classifier\.bias, classifier\.weight; it is a model of"):
        vision.aesthetic(str(tmp_path / "bare"), None)


def test_other_weights_are_another_version(tmp_path):
    """By which what was seen is kept: the name of a folder says nothing."""
    first = vision.vision(vit(tmp_path / "a", ["x"]), None)
    assert vision.vision(vit(tmp_path / "b", ["x"]), None).version == first.version
    from transformers import ViTModel

    model = ViTModel.from_pretrained(tmp_path / "b")
    with torch.no_grad():
        model.layernorm.bias[3] += 1e-3
    model.save_pretrained(tmp_path / "b")
    assert vision.vision(str(tmp_path / "b"), None).version != first.version


@torch.no_grad()
def test_what_is_beautiful_is_one_output_or_one_label(tmp_path):
    from transformers import ViTForImageClassification

    values = processor()(PICTURES, return_tensors="pt").pixel_values
    alone = vision.aesthetic(vit(tmp_path / "alone", ["score"]), None)
    model = ViTForImageClassification.from_pretrained(tmp_path / "alone").eval()
    assert torch.allclose(alone.features(PICTURES), model(values).logits, atol=1e-5)
    labelled = vision.aesthetic(vit(tmp_path / "labelled", ["not_aesthetic", "aesthetic"]), None)
    model = ViTForImageClassification.from_pretrained(tmp_path / "labelled").eval()
    assert torch.allclose(labelled.features(PICTURES)[:, 0], model(values).logits.softmax(1)[:, 1], atol=1e-5)
    with pytest.raises(CheckpointError, match="no single output and no label 'aesthetic' \\(cat, dog\\)"):
        vision.aesthetic(vit(tmp_path / "pets", ["cat", "dog"]), None)

    rows = [{"file": f"{number}.png", "prompt": f"picture {number}"} for number in range(8)]
    keep(tmp_path / "set", PICTURES, rows, drawn=False)
    estimates = looking.estimates({"base": looking.pairs(tmp_path / "set", ())}, (alone, labelled))["base"]
    assert [(one.metric, one.extractor, one.n) for one in estimates] == [
        ("aesthetic", "alone", 8),
        ("aesthetic", "labelled", 8),
    ]
    assert estimates[1].value == pytest.approx(labelled.features(PICTURES).mean().item(), rel=1e-5)


def test_what_is_no_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(CheckpointError, match="cannot be loaded as a vision model"):
        table.by_name(str(tmp_path), pictured={}, cache_dir=None, weights=None)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        table.by_name(str(tmp_path), pictured={}, cache_dir=None, weights=None)
    (found,) = table.by_name("photographs", pictured={}, cache_dir=None, weights=None)
    assert found.name == photographs.NAME
