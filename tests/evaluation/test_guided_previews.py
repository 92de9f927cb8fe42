"""A run whose previews are led away from the base: from the flag to the code on its card."""

import html
import json

import pytest
from PIL import Image

from pipeline.errors import ConfigError
from tests.conftest import dedupe, largest_difference, prepared, snippet_of
from tests.running import whole_grid

pytestmark = pytest.mark.invariant
FLAGS = ["--guidance_against", "base", "--guidance_interval", "0.1,inf", "--validation_prompt", "a red square"]


@pytest.fixture(scope="module")
def out(finished_run):
    """Its output folder, not to be changed."""
    return finished_run(*FLAGS, prepared=whole_grid)


def picture(folder, name):
    return Image.open(folder / "samples" / name / "0000.png")


def test_the_pictures_are_led_beyond_the_adapter_and_the_training_is_what_it_was(out, finished_run):
    usual = finished_run("--validation_prompt", "a red square", "--validation_size", "72x56", prepared=whole_grid)
    weights = [(folder / "pytorch_lora_weights.safetensors").read_bytes() for folder in (out, usual)]
    assert weights[0] == weights[1]
    rows = json.loads((out / "samples" / "step-000012" / "index.json").read_text())
    assert [rows[0][name] for name in ("guidance_scale", "guidance_against")] == [2.0, "base"]
    grid = json.loads((out / "samples" / "grid" / "index.json").read_text())
    assert {row["guidance_scale"] for row in grid} == {1.0, 2.0, 4.0}
    assert len({picture.read_bytes() for picture in (out / "samples" / "grid").glob("*.png")}) == 10
    plan = dict(json.loads((out / "environment.json").read_text())["plan"])
    assert plan["guidance"] == "of previews: cfg away from the base's, while 0.1 < sigma <= inf"


def test_the_cards_code_and_the_pages_draw_it_again(out, miniature, tmp_path, monkeypatch):
    code = snippet_of((out / "README.md").read_text(encoding="utf-8"))
    (tmp_path / miniature.name).symlink_to(miniature)
    (tmp_path / "pytorch_lora_weights.safetensors").symlink_to(out / "pytorch_lora_weights.safetensors")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "card", "exec"), {})
    assert largest_difference(Image.open("picture.png"), picture(out, "step-000012")) <= 1
    assert largest_difference(Image.open("picture.png"), picture(out, "base")) > 1
    names: dict = {}
    page = html.unescape((out / "report.html").read_text(encoding="utf-8").split("<h2>Use it</h2>")[1])
    exec(page.split("<pre>")[1].split("</pre>")[0], names)
    assert largest_difference(names["image"], picture(out, "step-000012")) <= 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--guidance_method", "cfg_zero_star"], "is for flows"),
        (["--guidance_against", "base", "--with_prior_preservation", "--class_prompt", "a square"], "--class_data_dir"),
    ],
)
def test_what_the_model_or_the_data_have_no_use_for_is_refused(small, tmp_path, flags, said):
    with pytest.raises(ConfigError, match=said):
        prepared([*small, *flags, "--output_dir", str(tmp_path / "out")], tmp_path / "out")


def test_flux_is_told_its_scale_and_compares_nothing(small, miniature_of, tmp_path):
    flags = ["--guidance_rescale", "0.5", "--cads_scale", "0.1", "--output_dir", str(tmp_path / "out")]
    flags += ["--pretrained_model_name_or_path", str(miniature_of("flux"))]
    words = dedupe([*small, *flags])
    with pytest.raises(ConfigError, match=r"(?s)--guidance_rescale: flux was distilled.*--cads_scale: flux"):
        prepared(words, tmp_path / "out")
