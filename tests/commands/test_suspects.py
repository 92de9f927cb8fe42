"""suspects: the captions of a finished run that do their pictures least good."""

import json
import shutil

import pytest
from PIL import Image

from pipeline import shipped
from pipeline.__main__ import main
from pipeline.commands import suspects
from tests.audit.flaws import write_rows
from tests.conftest import make_shapes, metrics, replaced

pytestmark = pytest.mark.invariant


FLAGS = [
    "--num_validation_images", "0", "--max_train_steps", "3",
    "--validation_split", "0.5", "--keep", "last", "--shuffle_tags", "--caption_separator", " ",
    "--lora_alpha", "2", "--use_ema", "--guided_target", "cfg",  # what is learnt beside the data is taken out
]  # fmt: skip


@pytest.fixture(scope="module")
def made(finished_run):
    """A finished run that held four pictures out; not to be changed."""
    return finished_run(*FLAGS)


@pytest.fixture
def out(made, tmp_path):
    """The same beside its data; both may be changed."""
    place = shutil.copytree(made.parent, tmp_path / "run")
    settings = place / "out" / "run.toml"
    text = settings.read_text(encoding="utf-8").replace(str(made.parent), str(place))
    settings.write_text(text, encoding="utf-8")
    return place / "out"


def test_it_is_the_loss_that_the_run_measured(made):
    found = suspects.find(made)
    assert len(found) == 8
    assert [suspect.gain for suspect in found] == sorted(suspect.gain for suspect in found)
    last = metrics(made)[-1]["validation"]
    held_out = [suspect for suspect in found if suspect.held_out]
    assert len(held_out) == 4
    assert sum(suspect.loss for suspect in held_out) / 4 == pytest.approx(last["held_out_loss"], rel=1e-5)
    gain = sum(suspect.without - suspect.loss for suspect in held_out) / 4
    assert gain == pytest.approx(last["condition_gain"], abs=1e-6)


def test_page_and_list_say_the_same_and_what_is_no_such_run_is_named(out, tmp_path, capsys):
    colours = out.parent / "colours"
    assert main(["suspects", str(out), "--limit", "3", "--page", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr().out
    assert "The 3 of 8 pictures whose captions help least" in said
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 3
    assert main(["suspects", str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 8
    for row in rows[:3]:
        assert row["name"] in said
        assert row["name"] in page
        assert row["caption_gain"] == pytest.approx(row["loss_without_caption"] / row["loss"] - 1)

    for words, said in (
        ([str(tmp_path)], "give the output folder of a finished run"),
        ([str(out), "--limit", "0"], "must be at least 1"),
        ([str(out), "--page", str(tmp_path)], "is a folder"),
    ):
        assert main(["suspects", *words]) == 2
        assert said in capsys.readouterr().err
    recorded = (out / "environment.json").read_text(encoding="utf-8")
    for text, reason in (("{", "is damaged"), ('{"seed": 1}', "the data are no longer those of the run")):
        (out / "environment.json").write_text(text, encoding="utf-8")
        assert main(["suspects", str(out)]) == 2
        assert reason in capsys.readouterr().err
    (out / "environment.json").write_text(recorded, encoding="utf-8")
    held_out = next(row["name"] for row in rows if row["held_out"])
    lines = (colours / "metadata.jsonl").read_text(encoding="utf-8")
    changed = [line.replace("square", "circle") if held_out in line else line for line in lines.splitlines()]
    (colours / "metadata.jsonl").write_text("\n".join(changed), encoding="utf-8")
    assert main(["suspects", str(out)]) == 2
    said = capsys.readouterr().err
    assert "the data are no longer those of the run" in said
    assert said.rstrip().endswith(f"Of the examples:\n  - {held_out}: something else is written of it")
    (colours / "metadata.jsonl").write_text(lines, encoding="utf-8")
    (colours / "red.png").write_bytes((colours / "teal.png").read_bytes())
    assert main(["suspects", str(out)]) == 2
    assert "  - red.png is another picture" in capsys.readouterr().err


def test_a_picture_of_whose_mask_nothing_is_seen_is_left_out(small, tmp_path, trainer, capsys):
    data = make_shapes(tmp_path / "data", 6)
    for path in sorted(data.glob("*.png")):
        with Image.open(path) as shown:
            mask = Image.new("L", shown.size, 0 if path.stem == "03" else 255)
        if path.stem == "03":  # 120 x 60: white only where the square in its middle does not reach
            mask.paste(255, (0, 0, 8, 60))
        mask.save(path.with_suffix(".mask.png"))
    flags = replaced(
        small, train_data_dir=data, cache_dir=tmp_path / "cache", num_validation_images=0, max_train_steps=1
    )
    more = ["--masked_loss", "--no-buckets", "--center_crop", "--validation_split", "0"]
    ended = trainer(*flags, *more, "--output_dir", tmp_path / "out")
    assert ended.code == 0, ended.output
    assert [suspect.example.name for suspect in suspects.find(tmp_path / "out")].count("03.png") == 0
    assert "Left out: 1 pictures of whose masks" in capsys.readouterr().err


def test_a_wrong_caption_comes_first_where_a_model_reads_them(tmp_path, trainer):
    """The starter base knows what its captions mean, so one step of training will do."""
    data = tmp_path / "data"
    data.mkdir()
    rows = [
        json.loads(line) for line in (shipped.TRAIN / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[:8]
    ]
    for row in rows:
        shutil.copy(shipped.TRAIN / row["file_name"], data)
    rows[3]["text"] = "three small foxes in a triangle on a green background"
    write_rows(data, rows)
    flags = ["--train_data_dir", data, "--max_train_steps", "1", "--rank", "2", "--lora_layers", "condition_only"]
    more = ["--learning_rate", "1e-6", "--validation_split", "0", "--num_validation_images", "0"]
    ended = trainer(*flags, *more, "--cache_dir", tmp_path / "cache", "--output_dir", tmp_path / "out")
    assert ended.code == 0, ended.output
    found = suspects.find(tmp_path / "out")
    assert found[0].example.name == rows[3]["file_name"]
    assert found[0].gain < 0
