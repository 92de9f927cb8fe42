"""CLIP as a reader of pictures: the margin, and a stock CLIP model from a folder."""

import json
import shutil

import markupsafe
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.errors import CheckpointError
from pipeline.evaluation.extractors import photographs, vision
from pipeline.evaluation.metrics.adherence import margins
from pipeline.evaluation.statistics import mean_of
from pipeline.families.miniatures.parts import clip_tokenizer
from pipeline.run.preflight import MAX_DRAWN
from tests.conftest import COLOURS, prepared

pytestmark = pytest.mark.unit


def test_the_margin_is_the_own_cosine_minus_the_mean_of_the_others():
    generator = torch.Generator().manual_seed(0)
    images, captions = (torch.randn(5, 8, generator=generator) for _ in range(2))
    cosine = torch.nn.functional.cosine_similarity(images[:, None], captions[None], dim=-1)
    expected = torch.stack([cosine[i, i] - torch.cat([cosine[i, :i], cosine[i, i + 1 :]]).mean() for i in range(5)])
    assert torch.allclose(margins(images, captions), expected, atol=1e-6)
    assert torch.allclose(margins(3 * images, 0.1 * captions), expected, atol=1e-6)


def test_equal_captions_are_not_each_others_rivals():
    captions = torch.eye(3)[[0, 0, 1]]
    found = margins(captions.clone(), captions)
    assert torch.allclose(found, torch.tensor([1.0, 1.0, 1.0]))
    assert torch.equal(margins(torch.ones(2, 3), torch.ones(2, 3)), torch.zeros(2))


def test_the_interval_is_students():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = mean_of(values)
    half = 3.182446 * values.std().item() / 2
    assert (found.value, found.n) == (2.5, 4)
    assert found.high - found.value == pytest.approx(half, rel=2e-3)
    assert mean_of(values[:1]).high == float("inf")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


def write_clip(folder):
    """A random-weight CLIP in transformers' layout."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = clip_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config={**sizes, **ids, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.eos_token_id},
            vision_config={**sizes, "image_size": 32, "patch_size": 8},
            projection_dim=16,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_a_stock_clip_is_read_as_transformers_reads_it(clip_folder):
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    model, processor = CLIPModel.from_pretrained(clip_folder), CLIPImageProcessor.from_pretrained(clip_folder)
    pictures = [Image.new("RGB", (40, 48), colour) for colour in COLOURS.values()]
    texts = [f"a {name} square" for name in COLOURS]
    words = CLIPTokenizer.from_pretrained(clip_folder)(texts, padding="max_length", return_tensors="pt")
    theirs = model(**words, pixel_values=processor(pictures, return_tensors="pt").pixel_values)
    encoder = vision.image_text(str(clip_folder), None)
    normal = torch.nn.functional.normalize
    assert torch.allclose(normal(encoder.features(pictures), dim=-1), theirs.image_embeds, atol=1e-5)
    assert torch.allclose(normal(encoder.captions(texts), dim=-1), theirs.text_embeds, atol=1e-5)
    assert encoder.name == clip_folder.name


def test_a_clip_in_half_precision_is_read_in_full(clip_folder, tmp_path):
    from transformers import CLIPModel

    shutil.copytree(clip_folder, tmp_path / "half")
    CLIPModel.from_pretrained(clip_folder).half().save_pretrained(tmp_path / "half")
    pictures = [Image.new("RGB", (32, 32), colour) for colour in COLOURS.values()]
    half, full = (
        vision.image_text(str(folder), None).features(pictures) for folder in (tmp_path / "half", clip_folder)
    )
    assert half.dtype == torch.float32
    assert torch.allclose(half, full, atol=1e-2)


def test_a_folder_that_is_no_clip(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(CheckpointError, match="cannot be loaded as CLIP"):
        vision.image_text(str(tmp_path), None)


@pytest.mark.invariant
def test_a_run_is_measured_by_the_model_that_is_named_and_tells_its_trackers(trainer, small, clip_folder, tmp_path):
    out = tmp_path / "out"
    measured = ["--validation_split", "0.5", "--clip_model_name_or_path", clip_folder, "--report_to", "tensorboard"]
    ended = trainer(*small, *measured, "--output_dir", out)
    assert ended.code == 0, ended.output
    found = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert found["extractors"] == {
        "clip": clip_folder.name,
        "photographs": photographs.NAME,  # wherever its packages are
    }
    assert found["n"] == 4
    sets = found["sets"]
    assert sets["adapted"][f"kid, {clip_folder.name}"]["extractor"] == clip_folder.name
    for name in ("base", "adapted", "reference", "change"):
        assert np.isfinite(sets[name][f"clip_margin, {clip_folder.name}"]["value"])
    board = EventAccumulator(str(out / "logs"), size_guidance={"images": 0, "scalars": 0}).Reload()
    for which, estimates in sets.items():
        for name, estimate in estimates.items():
            (event,) = board.Scalars(f"{which}/{name}")
            assert (event.step, event.value) == (12, pytest.approx(estimate["value"], rel=1e-5))
    assert {event.step for event in board.Images("test set")} == {12}
    judges = [f"kid, {photographs.NAME}", f"kid, {clip_folder.name}"]
    nearer = [
        sets["adapted"][judge]["high"] < sets["base"][judge]["low"] and sets["change"][judge]["high"] < 0
        for judge in judges
    ]
    differs = "dis" if nearer[0] != nearer[1] else ""
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"KID, nearest, CLIP margin: {clip_folder.name};" in page
    assert "KID, nearest: EfficientNet-Lite0" in page
    assert f'<p class="lead">So says {markupsafe.escape(photographs.NAME)}.' in page
    assert f"{clip_folder.name} {differs}agrees: for that one it is" in page


def test_pictures_that_nothing_measures_are_few(small, clip_folder, tmp_path):
    """Every one is drawn twice: hours, on a large model."""
    truth = tmp_path / "reference"
    truth.mkdir()
    for number in range(MAX_DRAWN + 4):
        Image.new("RGB", (64, 64), (number, 0, 255)).save(truth / f"{number:02d}.png")
        (truth / f"{number:02d}.txt").write_text(f"picture {number}", encoding="utf-8")
    flags = [*small, "--evaluation_data_dir", str(truth)]
    context = prepared(flags, tmp_path / "out")
    assert len(context.data.test_set.examples) == MAX_DRAWN
    said = "16 of 20 test images are drawn; --clip_model_name_or_path measures all"
    assert said in context.plan.notes
    context = prepared([*flags, "--clip_model_name_or_path", str(clip_folder)], tmp_path / "out")
    assert len(context.data.test_set.examples) == MAX_DRAWN + 4
    assert context.plan.notes == ()
