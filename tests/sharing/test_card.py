"""The model card of a real run: what it says, as the Hub's own code and every reader of YAML read it."""

import ast
import json
import math
import re
import shutil
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image, ImageOps

from pipeline.data.card import Card
from pipeline.errors import CheckpointError
from pipeline.evaluation import png_metadata
from pipeline.evaluation.adapter_hash import hash_of
from pipeline.evaluation.frontier.found import Frontier, Measured, Row, Setting
from pipeline.evaluation.metrics.measure import Estimate
from pipeline.evaluation.picture_sets import kept
from pipeline.evaluation.results import Evaluation
from pipeline.evaluation.statistics import Interval
from pipeline.sharing import card, hub
from pipeline.training.tracking import Metrics
from tests.conftest import metrics as metrics_of
from tests.conftest import snippet_of
from tests.rows import step_row, validation_row
from tests.sharing.carded import BASE, DATA, ODD, changed, front_of, text_of

pytestmark = pytest.mark.unit


@pytest.fixture
def out(squares):
    return squares


def test_the_front_matter_is_what_the_hub_reads(out):
    text_of(out)
    front = front_of(out)
    widget = front.pop("widget")
    assert front == {
        "base_model": "user/miniature",
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "license": "creativeml-openrail-m",
        "instance_prompt": "square",
        "datasets": ["user/squares"],
        "tags": ["text-to-image", "diffusers", "lora", "template:sd-lora"],
    }
    assert [row["text"] for row in widget][:2] == ["a red square", ODD]
    for row in widget:
        assert set(row) == {"text", "output"}
        assert (out / row["output"]["url"]).is_file()


def test_any_text_survives_yaml_and_markdown(out):
    """The front matter ends where it should, a table keeps its columns, the headings are ours."""
    odd = "yes: 'no' # \n---\n\"x\" \u2028 \x07 \x7f 🦊 {{ 7 * 7 }} {% raw %}"
    for name in ("base", "step-000012"):
        rows = json.loads((out / "samples" / name / "index.json").read_text(encoding="utf-8"))
        rows[0]["prompt"] = odd
        (out / "samples" / name / "index.json").write_text(json.dumps(rows), encoding="utf-8")
    data = Card(**{**vars(DATA), "source": "a | b\n\n# Heading\n![x](y)", "dataset_id": None})
    text = text_of(out, data=data, reason="# Heading")
    assert [row["text"] for row in front_of(out)["widget"]][:2] == [odd, ODD]
    body = ModelCard.load(out / "README.md").content.split("\n---\n", 1)[1]
    assert re.findall(r"^# .*", re.sub(r"(?s)```.*?```", "", body), re.MULTILINE) == ["# squares"]
    pictures = body.split("## Pictures")[1].split("## Numbers")[0]
    rows = [line for line in pictures.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(front_of(out)["widget"])
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert r"a \| b \# Heading \!\[x\](y)" in text
    assert "49" not in text.split("## Numbers")[0]
    assert ODD in [node.value for node in ast.walk(ast.parse(snippet_of(text))) if isinstance(node, ast.Constant)]


def test_a_measured_frontier_says_how_to_draw(out):
    assert "How to draw with it" not in text_of(out)
    some = Interval(0.5, 0.4, 0.6, 30)
    ways = [
        Setting(method=name, guidance={}, guidance_scale=2.0, num_inference_steps=4, scale=1.0, adapter=hash_of(out))
        for name in ("cfg", "apg")
    ]
    rows = tuple(
        Row(setting=way, folder=way.method, captions=30, is_beaten=False, adherence=some, diversity=some, vendi=some,
            kid=None, values=((0.5, 0.5),))
        for way in ways
    )  # fmt: skip
    measured = Measured(adherence="clip_margin", diversity="within_caption", adherence_by="a <b>", diversity_by="c")
    found = Frontier(captions=("x",) * 30, num_images=4, first_seed=0, measured=measured, rows=rows, front=(0, 1),
                     chosen={"faithful": 0, "balanced": 1, "diverse": 1}, area=some)  # fmt: skip
    (out / "frontier").mkdir()
    found.write(out / "frontier")
    text = text_of(out)
    assert "on 30 captions" in text
    assert "| faithful | cfg 2, 4 steps | 0.500 [0.400, 0.600] | 0.500 [0.400, 0.600] |  |" in text
    assert "| diverse | apg 2, 4 steps |" in text
    assert "by a <b>" not in text


def test_the_names_of_groups_are_cleaned_as_everything_is(out):
    found = json.loads((out / "result.json").read_text(encoding="utf-8"))
    groups = "by kind: 1 /home/jane/photos/x x 2, 3 jane@example.org x 0.7; 4 examples say as much as 3.0 alike"
    changed(out / "result.json", data={**found["data"], "balance": groups, "class_images": 7})
    text = text_of(out)
    assert "Their loss is weighed by kind: 1 x x 2, 3 [address] x 0.7" in text.replace("\\", "")
    assert "Beside them 7 pictures of their class were shown as often." in text


@pytest.mark.parametrize("prompt", ["1e3", "yes", "0o17", "null", "2026-01-01", "- x", "? y", "!!str z"])
def test_what_looks_like_something_else_stays_text_for_every_reader_of_yaml(out, prompt):
    rows = [{"prompt": prompt, "url": "x.png"}]
    front = card.front_matter(BASE, {"dataset_id": None}, prompt, rows)
    assert yaml.safe_load(front)["widget"][0]["text"] == yaml.safe_load(front)["instance_prompt"] == prompt
    assert front.count(json.dumps(prompt)) == 2  # in double quotes


def test_the_pictures_are_of_the_exported_step_and_none_belongs_to_the_dataset(out):
    text = text_of(out)
    shown = re.findall(r"samples/([\w-]+)/\d+\.png\)", text)
    step = json.loads((out / "result.json").read_text(encoding="utf-8"))["kept_step"]
    assert set(shown) == {"base", f"step-{step:06d}", "test-base", "test-adapted"}
    assert len(shown) == 2 * (2 + 4)  # the prompts but for the private one, and what was held out
    assert hub.chosen(out).count("README.md") == 1
    assert not [name for name in hub.chosen(out) if "samples/data" in name or "reference" in name]
    for url in re.findall(r"\]\((samples/[^)]+)\)", text):
        with Image.open(out / url) as picture:
            assert picture.size == (64, 64)


def test_at_most_so_many_pictures(out):
    for name in ("test-base", "test-adapted"):
        rows = kept(out / "samples" / name)
        more = [{**rows[0], "prompt": f"square {n}", "seed": n, "path": None} for n in range(30)]
        (out / "samples" / name / "index.json").write_text(json.dumps(more), encoding="utf-8")
    text_of(out)
    assert len(front_of(out)["widget"]) == card.MAX_PAIRS


def test_pictures_that_are_gone_are_not_shown(out):
    (out / "samples" / "step-000012" / "0000.png").unlink()
    shutil.rmtree(out / "samples" / "test-base")
    text_of(out)
    assert [row["text"] for row in front_of(out)["widget"]] == [ODD]
    shutil.rmtree(out / "samples")
    text = text_of(out)
    assert "There is none to show." in text
    assert "<Gallery" not in text
    assert "widget" not in front_of(out)
    assert '"square",' in text.replace("'", '"')  # the trigger word alone is the prompt of the snippet


def test_the_pictures_are_called_marked_only_if_all_are(out):
    assert "trainedAlgorithmicMedia" in text_of(out)  # a run marks what it draws
    for path in (out / "samples").glob("*/*.png"):
        with Image.open(path) as picture:
            picture.convert("RGB").save(path)
    assert "trainedAlgorithmicMedia" not in text_of(out)
    for path in (out / "samples").glob("*/*.png"):
        with Image.open(path) as picture:
            png_metadata.save_marked(picture.convert("RGB"), path)
    assert "trainedAlgorithmicMedia" in text_of(out)
    ImageOps.mirror(Image.open(out / "samples" / "base" / "0001.png")).save(out / "samples" / "base" / "0001.png")
    assert "trainedAlgorithmicMedia" not in text_of(out)


def test_the_numbers_are_those_of_the_files(out):
    changed(
        out / "result.json", kept_step=6,
        verification={"error": 3.21e-7, "effect": 0.123, "num_layers": 17},
        data={"examples": 77, "held_out": 0, "captions": 80, "distinct_captions": 79, "words": 2.5,
              "side": {"smallest": 61, "median": 64, "largest": 68}, "skipped": 0, "copies": 0},
    )  # fmt: skip
    found = validation_row(0.0)
    kept = replace(found, held_out_change=Interval(-0.1, -0.2, 0.05, 9), held_out_base=0.4)
    other = replace(found, held_out_change=Interval(99.0, -0.2, 0.05, 9), held_out_base=0.4)
    measured = {6: kept, 4: other, 8: other}
    metrics = Metrics(out, 0)
    for step in range(1, 9):
        metrics.write(step_row(step, measured.get(step), learning_rate=step * 1e-5, ids=("a",) * 5))
    metrics.close()
    kid = Estimate(0.5, 0.25, 0.75, 31, "kid", "Inception-v3")
    margin = replace(kid, metric="clip_margin", extractor="my_clip")
    change = Estimate(0.5, -math.inf, math.inf, 1, "clip_margin", "my_clip")
    sets = {
        "reference": {"clip_margin": margin},
        "base": {"kid": replace(kid, value=0.625)},
        "adapted": {"kid": kid},
        "change": {"kid": replace(kid, value=-0.125, low=-0.2, high=0.1), "clip_margin": change},
    }
    Evaluation(31, {"inception": "Inception-v3", "clip": "my_clip"}, sets).write(out)
    text = text_of(out)
    assert "for 8 steps; the weights of step 6 were kept." in text
    assert "it is 3.2e-07 of its own effect away from the trained adapter (17 layers)" in text
    assert "changes the prediction of the base model by 12 %" in text
    assert "On 9 images held out of training the loss changed by -25.0% [-50.0%, +12.5%]" in text
    assert re.search(
        r"\(KID.*\), by Inception-v3 \| 0.625 \[0.250, 0.750\] \| 0.500 \[0.250, 0.750\] \| "
        r"-0.125 \[-0.200, \+0.100\] \| 0 by definition \| 31 \|",
        text,
    )
    assert re.search(r"margin.*, by my\\_clip \|  \|  \| \+0.500 \(no interval\) \| 0.500 \[.*\] \| 31 \|", text)
    assert "guess" not in text
    assert "| examples per step | 5 |\n" in text
    assert "| learning rate at its peak | 8e-05 |\n" in text
    assert "| rank | 4 |\n| alpha | as the rank |\n" in text
    assert "77 pictures. Their shorter side is 61 to 68 pixels, in the median 64 pixels; 79 of 80 captions" in text


def test_numbers_that_are_missing_are_left_out(out):
    (out / "metrics.jsonl").unlink()
    (out / "evaluation.json").unlink(missing_ok=True)
    text = text_of(out)
    assert "generalise" not in text
    assert "Drawn from" not in text
    assert "examples per step" not in text
    assert "None" not in text
    assert "trained with t2i-lora 0.1.0.\n" in text


def test_a_run_that_held_nothing_out_says_nothing_about_it(out):
    rows = [{key: value for key, value in row.items() if key != "validation"} for row in metrics_of(out)]
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert "generalise" not in text_of(out)


def test_the_real_run_is_told(out):
    text = text_of(out)
    assert "On 4 images held out of training the loss changed by " in text
    assert re.search(r"Read back by diffusers' own loader, it (predicts bit for bit|is \d)", text)
    assert "**Trigger word:** square." in text
    assert "| steps | 12 |\n| examples per step | 2 |\n| resolution | 64 x 64 |\n| rank | 4 |\n" in text
    assert "| learning rate at its peak | 0.001 |\n" in text
    assert "4 pictures, 4 more held out." in text


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("result.json", {"rank": None, "alpha": None}, "result.json lacks alpha, rank; put back"),
        ("result.json", {"distance": 1.0}, "result.json holds distance, unknown to this version"),
        ("result.json", {"kept_step": "six"}, "result.json: kept_step is 'six', which does not belong there"),
        ("evaluation.json", {"n": 4, "sets": {"base": []}}, "evaluation.json lacks extractors"),
    ],
)
def test_a_file_that_is_not_as_the_run_wrote_it_is_named(out, name, changes, said):
    changed(out / name, **changes)
    with pytest.raises(CheckpointError, match=re.escape(said)):
        text_of(out)


def test_a_folder_without_a_finished_run(tmp_path):
    with pytest.raises(CheckpointError, match="holds no finished run"):
        card.write(tmp_path, BASE, None, None)


def test_the_same_run_gives_the_same_card(out):
    assert text_of(out) == text_of(out)


def test_the_card_of_a_dora_says_that_the_file_is_not_for_comfyui(out):
    assert "not for ComfyUI" not in text_of(out)
    settings = (out / "run.toml").read_text(encoding="utf-8")
    (out / "run.toml").write_text(re.sub(r"(?m)^use_dora = .*\n", "", settings) + "use_dora = true\n", encoding="utf-8")
    assert "This is a DoRA: the file is not for ComfyUI" in text_of(out)
