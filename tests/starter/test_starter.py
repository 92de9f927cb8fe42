"""The base model and the dataset that ship."""

import hashlib
import html
import itertools
import json
import re
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from pipeline import shipped
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.evaluation import results
from pipeline.evaluation.extractors import photographs
from pipeline.starter import judge, world
from tests.conftest import largest_difference

pytestmark = pytest.mark.unit
font = pytest.mark.skipif(not world.FONT.exists(), reason="only rebuilding needs the font")


def test_page_and_readme_say_what_was_measured():
    docs = Path(__file__).parents[2] / "docs"
    page = runpy.run_path(str(docs / "make_starter.py"))["page"]()
    assert (docs / "starter.md").read_text(encoding="utf-8") == page, "python docs/make_starter.py"
    measured = results.read(docs / "starter")
    assert measured is not None
    base, adapted = (measured.found(name, "own_nearest", photographs.NAME) for name in ("base", "adapted"))
    readme = " ".join((docs.parent / "README.md").read_text(encoding="utf-8").split())
    assert f"own reference nearest for {base.value:.0%} and {adapted.value:.0%}" in readme


def concepts_of(folder: Path) -> set[str]:
    return {json.loads(line)["concept"] for line in (folder / "metadata.jsonl").read_text().splitlines()}


def test_what_is_trained_on_and_what_is_measured_share_no_concept():
    train, unseen = concepts_of(shipped.TRAIN), concepts_of(shipped.TEST)
    assert len(train) == 120
    assert len(unseen) == 80
    assert not train & unseen
    assert train | unseen <= {concept.name for concept in world.concepts()}


def test_the_dataset_is_clean():
    for folder, count in ((shipped.TRAIN, 240), (shipped.TEST, 240)):
        manifest = read_manifest(folder, DataOptions())
        assert len(manifest.examples) == count
        assert not manifest.duplicates
        assert not manifest.skipped


def test_the_base_opens_with_the_plain_lines_and_is_small():
    pipe = StableDiffusionPipeline.from_pretrained(shipped.BASE)
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a large fox on a blue background", num_inference_steps=2).images[0]
    assert picture.size == (world.SIDE_PIXELS, world.SIDE_PIXELS)
    assert sum(path.stat().st_size for path in shipped.STARTER.rglob("*.safetensors")) <= 40_000_000


def test_the_lines_on_the_page_draw_its_first_picture_again(trainer, tmp_path):
    """A short run of the starter; then the page's own snippet, as it stands, in plain diffusers."""
    out, unseen = tmp_path / "out", tmp_path / "unseen"
    unseen.mkdir()
    rows = (shipped.TEST / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[:4]
    for row in rows:
        shutil.copy(shipped.TEST / json.loads(row)["file_name"], unseen)
    (unseen / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    ended = trainer(
        "--train_data_dir", shipped.TRAIN, "--evaluation_data_dir", unseen, "--max_train_samples", "16",
        "--max_train_steps", "4", "--train_batch_size", "2", "--num_inference_steps", "2", "--validation_split", "0",
        "--validation_prompt", "a fox", "--num_validation_images", "1",
        "--cache_dir", tmp_path / "cache", "--output_dir", out,
    )  # fmt: skip
    assert ended.code == 0, ended.output
    measured = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert measured["extractors"]["judge"] == judge.NAME
    snippet = html.unescape((out / "report.html").read_text(encoding="utf-8").split("<h2>Use it</h2>")[1])
    names: dict = {}
    exec(snippet.split("<pre>")[1].split("</pre>")[0], names)
    tuned, base = (Image.open(out / "samples" / f"test-{which}" / "0000.png") for which in ("adapted", "base"))
    assert largest_difference(names["image"], tuned) <= 1
    assert largest_difference(names["image"], base) > 8


def test_the_licence_of_the_pictures_travels_with_model_and_data():
    for folder in (shipped.BASE, shipped.STARTER / "vision", shipped.STARTER / "dataset"):
        text = (folder / "OFL.txt").read_text(encoding="utf-8")
        assert "SIL OPEN FONT LICENSE" in text
        assert "Google" in text


@font
def test_no_training_draws_a_held_out_combination_and_every_concept_has_some():
    scenes = [world.training_scene(3, index)[0] for index in range(3000)]
    assert not any(scene.held_out for scene in scenes)
    held_out = world.held_out_scenes(3, 2 * len(world.concepts()))
    assert all(scene.held_out for scene in held_out)
    assert {scene.concept.name for scene in held_out} == {concept.name for concept in world.concepts()}


@font
def test_the_world_is_a_function_of_seed_and_index():
    first, again, other = (world.training_scene(seed, 17) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first[0].image().tobytes() == again[0].image().tobytes()


@font
@pytest.mark.parametrize("count", [25, pytest.param(500, marks=pytest.mark.slow)])
def test_no_styled_pixel_was_in_the_bases_training(count):
    """The base saw renders and the broad set; the dataset's pictures are neither."""
    from pipeline.starter.build import pixels

    styled = {
        hashlib.sha256(Image.open(path).convert("RGB").tobytes()).digest()
        for folder in (shipped.TRAIN, shipped.TEST)
        for path in folder.glob("*.png")
    }
    assert len(styled) == 480
    seen = {hashlib.sha256(pixels.broad_picture(0, index).tobytes()).digest() for index in range(count)}
    seen |= {hashlib.sha256(world.training_scene(0, index)[0].image().tobytes()).digest() for index in range(count)}
    assert not styled & seen
    rooms = [path for path in (shipped.STARTER / "build").glob("*.py") if path.name not in ("dataset.py", "style.py")]
    assert len(rooms) > 8
    assert not [path.name for path in rooms if re.search(r"\bimport .*\bstyle\b|style import", path.read_text())]


@font
def test_the_judge_knows_held_out_renders():
    scenes = world.held_out_scenes(8, len(world.concepts()))
    ranks = judge.concept_ranks(judge.load(), [s.image() for s in scenes], [s.concept.name for s in scenes])
    assert (ranks < 1).float().mean() > 0.95
    assert (ranks < 5).float().mean() > 0.99


def test_captions_are_english():
    fox = next(concept for concept in world.concepts() if concept.name == "fox")
    scene = world.Scene(fox, 2, "small", "side by side", "orange")
    assert scene.caption() == "two small foxes side by side on an orange background"
    assert scene.caption("{bare}") == "two foxes"
    assert world.with_article("unicorn") == "a unicorn"
    assert world.with_article("axe") == "an axe"


@font
@pytest.mark.parametrize("stride", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_the_dataset_is_what_its_code_draws(tmp_path, monkeypatch, stride):
    """Every scene and caption, and one of so many pictures."""
    from pipeline.starter.build import dataset

    draw, numbers, told = dataset.style.sticker, itertools.count(), []

    def sticker(scene):
        told.append(scene.unshifted)
        return Image.new("RGB", (1, 1)) if next(numbers) % stride else draw(scene)

    monkeypatch.setattr(dataset.style, "sticker", sticker)
    dataset.build(tmp_path)
    assert next(numbers) == len(set(told)) == 480  # no caption is true of two of them
    for folder in (shipped.TRAIN, shipped.TEST):
        again = tmp_path / folder.name
        assert (again / "metadata.jsonl").read_text() == (folder / "metadata.jsonl").read_text()
        for path in sorted(folder.glob("*.png"))[::stride]:
            assert Image.open(again / path.name).tobytes() == Image.open(path).tobytes(), path


@font
def test_of_scenes_that_differ_by_a_shift_either_is_the_others_truth():
    from pipeline.starter import measure

    fox, crab = (world.Scene(thing, 1, "large", "in the middle", "red") for thing in world.concepts()[:2])
    scenes = [fox, replace(fox, shift=(1, 1)), crab]
    real = [scene.image() for scene in scenes]
    swapped = measure.distance(photographs.load(), real, [real[1], real[0], real[2]], scenes)
    assert swapped["own truth nearest"].startswith("100.0%")
    wrong = measure.distance(photographs.load(), real, [real[1], real[2], real[0]], scenes)
    assert wrong["own truth nearest"].startswith("33.3%")


@font
def test_the_judges_features_are_of_size_one_on_renders():
    from pipeline.starter import judge

    found = judge.features(judge.load(), [scene.image() for scene in world.held_out_scenes(56, 128)])
    assert found.square().mean().sqrt().item() == pytest.approx(1, abs=0.03)
