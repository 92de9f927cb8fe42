"""The verbs, as typed."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from pipeline.__main__ import main
from pipeline.commands.places import beside
from pipeline.evaluation import png_metadata
from pipeline.evaluation.picture_sets import kept
from pipeline.families import registry
from tests.conftest import largest_difference
from tests.running import whole_grid

pytestmark = pytest.mark.unit


@pytest.fixture(scope="session")
def finished(finished_run):
    flags = ["--validation_prompt", "a red square", "--validation_size", "72x56"]
    return finished_run(*flags, prepared=whole_grid)


@pytest.fixture
def trained(finished, tmp_path):
    """A copy of it to work on."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def test_sample_draws_what_the_preview_drew_and_what_plain_diffusers_draws(trained, miniature, tmp_path):
    assert main(["sample", str(trained), "--prompt", "a red square", "--to", str(tmp_path / "drawn")]) == 0
    ours = Image.open(tmp_path / "drawn" / "adapted" / "0000.png")
    preview = kept(trained / "samples" / "step-000012")[0]
    assert largest_difference(ours, Image.open(preview["path"])) <= 1

    pipe = StableDiffusionPipeline.from_pretrained(miniature)
    pipe.load_lora_weights(trained, weight_name="pytorch_lora_weights.safetensors")
    plain = pipe(
        "a red square", guidance_scale=preview["guidance_scale"], num_inference_steps=2, height=56, width=72,
        generator=torch.Generator().manual_seed(preview["seed"]),
    ).images[0]  # fmt: skip
    assert largest_difference(plain, ours) <= 1
    assert largest_difference(plain, Image.open(tmp_path / "drawn" / "base" / "0000.png")) > 1


def test_the_grid_shows_strengths_and_guidance_scales(trained):
    """At the run's guidance, scale 0 is the base's preview and 1 the adapter's; no two cells are alike."""
    cells = {(cell["guidance_scale"], cell["scale"]): cell["path"] for cell in kept(trained / "samples" / "grid")}
    assert [key[0] for key in cells][::4] == [3.75, 7.5, 15.0]
    base, tuned = (kept(trained / "samples" / name)[0]["path"] for name in ("base", "step-000012"))
    assert cells[7.5, 0.0].read_bytes() == base.read_bytes()
    assert cells[7.5, 1.0].read_bytes() == tuned.read_bytes()
    assert len({path.read_bytes() for path in cells.values()}) == len(cells) == 12


def test_strength_zero_is_the_base_at_any_size(trained, tmp_path, capsys):
    words = ["sample", str(trained), "--prompt", "a red square", "--scale", "0", "--to", str(tmp_path / "drawn")]
    for size, said in (("832", "--size 832 is no width x height"), ("60x48", "--size 60 must be a multiple of 8; 64")):
        assert main([*words, "--size", size]) == 2
        assert said in capsys.readouterr().err
    assert main([*words, "--size", "48x80"]) == 0
    assert Image.open(tmp_path / "drawn" / "base" / "0000.png").size == (48, 80)
    base, tuned = (Image.open(tmp_path / "drawn" / name / "0000.png") for name in ("base", "adapted"))
    assert largest_difference(base, tuned) == 0
    assert all(png_metadata.is_marked(path) for path in (tmp_path / "drawn").glob("*/*.png"))


def test_what_is_made_of_a_checkpoint_lies_beside_it_and_of_a_run_in_it(tmp_path):
    """A checkpoint is removed with all that is in it; a run may be called as it likes."""
    (tmp_path / "out" / "checkpoint-2").mkdir(parents=True)
    assert beside(tmp_path / "out" / "checkpoint-2", "drawn") == tmp_path / "out" / "drawn-checkpoint-2"
    run = tmp_path / "checkpoint-of-mine"
    run.mkdir()
    (run / "run.toml").write_text("")
    assert beside(run, "drawn") == run / "drawn"


def test_a_layout_that_the_family_has_not_is_refused_before_the_base_is_asked_for(trained, tmp_path, capsys):
    assert main(["export", str(trained), str(tmp_path / "x.safetensors"), "--kind", "bfl"]) == 2
    assert "an adapter of sd has none there" in capsys.readouterr().err


def test_report_is_made_again_from_the_folder_alone(finished, trained):
    (trained / "report.html").unlink()
    assert main(["report", str(trained)]) == 0
    again = (trained / "report.html").read_text(encoding="utf-8")
    assert again.replace(str(trained), str(finished)) == (finished / "report.html").read_text(encoding="utf-8")
    assert "another one since" not in again
    (trained / "pytorch_lora_weights.safetensors").write_bytes(b"exchanged")
    assert main(["report", str(trained)]) == 0
    assert "The adapter's file is gone or another one since" in (trained / "report.html").read_text(encoding="utf-8")


DRAW = ["sample", "--prompt", "x", "--to", "nowhere"]


@pytest.mark.parametrize("content", [b"", b"[", b"\xff\xfe"], ids=["empty", "cut", "no UTF-8"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run.toml", ["report"]),
        ("run.toml", DRAW),
        ("environment.json", ["report"]),
        ("environment.json", ["suspects"]),
        ("result.json", ["report"]),
        ("documents.json", ["publish", "--repo", "user/name"]),
        ("samples/data/index.json", ["report"]),
    ],
)
def test_a_damaged_file_of_a_run_is_named(trained, name, words, content, capsys):
    (trained / name).write_bytes(content)
    assert main([words[0], str(trained), *words[1:]]) == 2
    assert f"{trained / name} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["sample", "nowhere", "--prompt", "x"], "nowhere"),
        (["sample", "docs"], "--prompt"),
        (["report", "nowhere"], "nowhere"),
        (["publish", "nowhere", "--repo", "user/name"], "holds no finished run"),
        (["inspect", "nowhere.safetensors"], "does not exist"),
        (["inspect", "/dev/null"], "/dev/null is no file"),
        (["memorisation", "nowhere"], "There is no nowhere/run.toml"),
        (["card", ""], "give the last part of the dataset's folder"),
        (["report", "docs"], "no finished run"),
        (["miniature", "sd4", "/tmp/x"], f"there is {', '.join(sorted(registry.NAMES))}"),
        (["miniature", "sd", "docs"], "not empty"),
        (["sampel", "docs"], "sample"),
    ],
)
def test_mistakes_are_answered(argv, said, capsys):
    assert main(argv) == 2
    assert said in capsys.readouterr().err


def test_what_a_model_drew_is_marked_and_nothing_else(trained):
    marked = {path.parent.name: png_metadata.is_marked(path) for path in (trained / "samples").glob("*/*.png")}
    assert marked == {"base": True, "step-000012": True, "grid": True, "data": False}
