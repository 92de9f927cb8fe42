"""compare: a grid of base, checkpoints, runs and scales."""

import re
import shutil

import pytest
from PIL import Image

from pipeline.__main__ import main
from pipeline.commands import compare as comparing
from pipeline.evaluation.sample import Sampler
from tests.conftest import largest_difference

pytestmark = pytest.mark.invariant
FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def made(finished_run):
    """A finished run with checkpoints of steps 4, 8 and 12; not to be changed."""
    flags = ["--learning_rate", "1e-2", "--checkpointing_steps", "4"]
    return finished_run(*flags, "--validation_prompt", "a red square", "--seed", "3")


@pytest.fixture
def out(made, tmp_path):
    """The same; may be changed."""
    return shutil.copytree(made, tmp_path / "out")


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red square\n\na <blue> square\n", encoding="utf-8")
    return path


def picture(folder, column, row):
    return Image.open(folder / f"column-{column:02d}" / f"{row:06d}.png")


def test_every_cell_is_what_its_title_says(out, prompts, tmp_path, capsys):
    """In the columns of the base and of the last step lie the run's own previews; at scale 0 there is the base."""
    words = [str(out), "--prompts", str(prompts), "--scale", "0", "--scale", "1", "--checkpoints", "--seed", "3"]
    assert main(["compare", *words]) == 0
    folder = out / "compare"
    page = (folder / "report.html").read_text(encoding="utf-8")
    titles = re.findall(r"<th>([^<]+)</th>", page)
    assert "2 pictures, 8 ways." in page
    places = ["checkpoint-4", "checkpoint-8", "checkpoint-12", "out"]
    assert titles == ["base", *(f"{place}, scale {scale}" for place in places for scale in (0.0, 1.0))]
    base = Image.open(out / "samples" / "base" / "0000.png")
    last = Image.open(out / "samples" / "step-000012" / "0000.png")
    assert largest_difference(picture(folder, 0, 0), base) <= 1
    assert largest_difference(picture(folder, 8, 0), last) <= 1
    assert largest_difference(picture(folder, 6, 0), last) <= 1  # the last checkpoint
    for column in (1, 3, 5, 7):
        assert largest_difference(picture(folder, column, 0), picture(folder, 0, 0)) <= 1
    assert largest_difference(picture(folder, 2, 0), picture(folder, 4, 0)) > 1
    assert page.count("<img") == 18
    assert "a &lt;blue&gt; square" in page
    assert f"Page  {folder / 'report.html'}" in capsys.readouterr().out


def test_it_goes_on_where_it_stopped(out, prompts, monkeypatch, capsys):
    words = ["compare", str(out), "--prompts", str(prompts), "--num_images", "2"]
    assert main(words) == 0
    before = {path: path.read_bytes() for path in (out / "compare").rglob("*.png")}
    assert len(before) == 8
    (out / "compare" / "column-01" / "000002.png").unlink()
    drawn, draw = list[int](), Sampler.draw
    monkeypatch.setattr(Sampler, "draw", lambda self, some: drawn.append(len(some)) or draw(self, some))
    assert main(words) == 0
    assert drawn == [4]
    assert {path: path.read_bytes() for path in (out / "compare").rglob("*.png")} == before
    assert main([*words, "--scale", "0.5"]) == 2
    assert "holds a grid with other columns; give another folder with --to" in capsys.readouterr().err


def drawn(run, folder, *flags: str) -> tuple[tuple[int, int], bytes]:
    """The size and the pixels of a checkpoint's picture."""
    (folder / "one.txt").write_text("a red square\n", encoding="utf-8")
    words = ["--prompts", str(folder / "one.txt"), *flags, "--to", str(folder / "grid")]
    assert main(["compare", str(run / "checkpoint-4"), *words]) == 0
    found = picture(folder / "grid", 1, 0)
    return found.size, found.tobytes()


@pytest.fixture(scope="module")
def plain(made, tmp_path_factory):
    return drawn(made, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    "flags", [["--guidance_scale", "1.5"], ["--num_inference_steps", "3"], ["--size", "72x56"], ["--seed", "9"]]
)
def test_each_option_decides_what_is_drawn(made, plain, tmp_path, flags):
    assert drawn(made, tmp_path, *flags) != plain


def test_every_column_has_a_title_of_its_own(out, tmp_path):
    shutil.copytree(out / "checkpoint-4", out / "checkpoint-4-backup")
    twin = shutil.copytree(out, tmp_path / "other" / "out")
    columns = comparing.columns_of([out, twin], [1.0, 1.0000001], checkpoints=True)
    titles = [column.title for column in columns]
    assert len(set(titles)) == len(titles) == 1 + 2 * 2 * 4
    assert not any("backup" in title for title in titles)


def test_two_runs_stand_side_by_side(out, prompts, tmp_path):
    other = shutil.copytree(out, tmp_path / "other")
    shutil.copy(out / "checkpoint-4" / FILE, other)  # as if it had learnt for a third as long
    words = ["--prompts", str(prompts), "--to", str(tmp_path / "grid"), "--seed", "3"]
    assert main(["compare", str(out), str(other), *words]) == 0
    page = (tmp_path / "grid" / "report.html").read_text(encoding="utf-8")
    assert all(f"<th>{name}</th>" in page for name in ("base", "out", "other"))
    last = Image.open(out / "samples" / "step-000012" / "0000.png")
    assert largest_difference(picture(tmp_path / "grid", 1, 0), last) <= 1
    assert largest_difference(picture(tmp_path / "grid", 2, 0), last) > 1


def test_what_cannot_be_drawn_is_named(out, prompts, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Sampler, "draw", None)
    other = shutil.copytree(out, tmp_path / "other")
    text = (other / "run.toml").read_text(encoding="utf-8").replace("/sd", "/another")
    (other / "run.toml").write_text(text, encoding="utf-8")
    third = shutil.copytree(out, tmp_path / "third")
    (third / "run.toml").write_text(f"clip_skip = 1\n{(out / 'run.toml').read_text(encoding='utf-8')}", "utf-8")
    for words, said in (
        ([str(out), str(other), "--prompts", str(prompts)], "These adapters have different base models"),
        ([str(out), str(third), "--prompts", str(prompts)], "were trained with other clip_skip"),
        ([str(out), str(tmp_path), str(prompts.parent / "x"), "--prompts", str(prompts)], "x: no pytorch_lora"),
        (
            [str(out), "--prompts", str(tmp_path / "none.txt")],
            "--prompts " + str(tmp_path / "none.txt") + " is no file",
        ),
        ([str(out), "--prompts", str(prompts), "--scale", "1e3"], "--scale 1000 must lie between -100 and 100"),
        ([str(out), "--prompts", str(prompts), "--to", str(out)], "holds other files; give a new folder with --to"),
    ):
        assert main(["compare", *words]) == 2
        assert said in capsys.readouterr().err
    assert not (out / "compare").exists()
