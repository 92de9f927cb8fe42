"""`check` looks at the pictures of a class too, as such: they are never counted among the subject's."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline.__main__ import main
from pipeline.data.pixels import to_picture
from pipeline.families.sd import StableDiffusion
from pipeline.run.encode import encode
from tests.audit import flaws
from tests.conftest import prepared

pytestmark = pytest.mark.unit
PRIOR = ["--with_prior_preservation", "--class_prompt", "a hill", "--num_class_images", "20"]


@pytest.fixture
def flags(miniature, tmp_path):
    return [
        "--pretrained_model_name_or_path", str(miniature), "--cache_dir", str(tmp_path / "cache"),
        "--resolution", "128", "--train_batch_size", "4",
    ]  # fmt: skip


@pytest.fixture
def data(tmp_path):
    return flaws.clean(tmp_path / "data", 12)


@pytest.fixture
def hills(tmp_path):
    """Pictures of a class, without captions."""
    folder = tmp_path / "hills"
    folder.mkdir()
    for number in range(16):
        flaws.picture(60 + number).save(folder / f"hill-{number:02d}.png")
    return folder


def found_by(capsys, *words):
    capsys.readouterr()
    code = main(["check", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_clean_class_changes_nothing_that_is_said_of_the_subject(flags, data, hills, tmp_path, capsys):
    alone, card = found_by(capsys, data, *flags)[1], tmp_path / "card.md"
    assert alone["class"] is None
    code, both = found_by(capsys, data, *flags, *PRIOR, "--class_data_dir", hills, "--card", card)
    assert code == 0
    assert {**both, "class": None} == alone
    of_class = both["class"]
    assert of_class["numbers"] == {
        "pictures": 16, "to train on": 13, "only measured": 3, "to be drawn by the base": 4,
    }  # fmt: skip
    assert of_class["sizes"] == {"128 x 128": 13}
    assert {case["text"].partition(": ")[0] for one in of_class["findings"] for case in one["cases"]} == {
        "images whose caption is --class_prompt"
    }
    assert "| pictures | 12 |" in card.read_text(encoding="utf-8")
    code, measured = found_by(capsys, data, *flags, "--class_data_dir", hills, "--class_prompt", "a hill")
    assert (code, measured["class"]["sizes"]) == (0, {})
    assert measured["class"]["numbers"]["only measured"] == 16
    assert main(["check", str(data), *flags, *PRIOR]) == 0
    assert "Pictures of the class: 20 to be drawn by the base" in capsys.readouterr().out


def test_what_is_wrong_with_a_class_is_said_of_the_class(flags, data, hills, tmp_path, capsys):
    (hills / "broken.png").write_bytes(b"x")
    Image.new("RGB", (128, 128)).save(hills / "black.png")
    flaws.picture(70, (400, 100)).save(hills / "long.png")
    shutil.copy(data / "003.png", hills / "theirs.png")
    flaws.noisy(flaws.picture(5)).save(hills / "nearly.png")
    (hills / "hill-00.txt").write_text("zxq hill at noon")
    page = tmp_path / "page.html"
    words = [data, *flags, "--class_data_dir", hills, "--with_prior_preservation", "--page", page]
    own = ["--class_prompt", "a hill", "--trigger_word", "zxq"]
    code, found = found_by(capsys, *words, *own)
    assert code == 2
    cases = {one["kind"]: [case["text"] for case in one["cases"]] for one in found["class"]["findings"]}
    assert cases["unreadable"][0].startswith("broken.png: ")
    assert cases["one-colour"][0].startswith("black.png")
    assert cases["cropped"][0].startswith("long.png")
    assert cases["alone"] == ["1 of 200 x 80"]
    assert cases["class-own"] == ["theirs.png is 003.png of the dataset"]
    assert cases["class-near"] == ["nearly.png is nearly 005.png of the dataset"]
    assert cases["class-trigger"] == ["hill-00.png: 'zxq hill at noon'"]
    assert not {"same-picture", "near", "leak", "alike", "no-caption"} & cases.keys()
    assert {one["kind"] for one in found["findings"]} == {"layout"}  # the subject's captions lack the trigger word
    text = page.read_text(encoding="utf-8")
    assert 'id="of-class-class-own"' in text
    assert text.index("Pictures of the class") < text.index("theirs.png")
    assert main(["check", *map(str, words), "--class_prompt", "a hill"]) == 2
    said = capsys.readouterr().out
    assert said.index("Pictures of the class: 20 pictures") < said.index("ERROR Pictures that cannot be read")


def test_pictures_of_a_class_without_a_caption_are_told_of_its_own_prompt(flags, data, hills, capsys):
    code, found = found_by(capsys, data, *flags, "--class_data_dir", hills)
    (one,) = found["class"]["findings"]
    assert (code, one["kind"], len(one["cases"])) == (2, "no-caption", 16)
    assert "--class_prompt" in one["advice"]
    assert "--instance_prompt" not in one["advice"]
    assert main(["check", str(data), *flags, "--class_data_dir", str(data.parent / "nowhere")]) == 2
    assert "--class_data_dir" in capsys.readouterr().err


def test_the_preview_shows_the_class_as_the_encoder_is_given_it(flags, data, hills, tmp_path, capsys, monkeypatch):
    words = [*flags, *PRIOR[:-1], "16", "--class_data_dir", str(hills), "--random_flip", "--caption_dropout", "0.3"]
    preview = tmp_path / "preview"
    assert main(["check", str(data), *words, "--preview_dataset", str(preview)]) == 0
    rows = flaws.rows_of(preview)
    assert {row["of"] for row in rows if row["is_class"]} < {path.name for path in hills.iterdir()}
    assert len({row["of"] for row in rows if row["is_class"]}) == 12
    assert {row["of"] for row in rows if not row["is_class"]} == {path.name for path in data.glob("*.png")}
    assert {row["text"] for row in rows if row["is_class"]} == {"a hill", ""}
    given, encode_image = set(), StableDiffusion.encode_image

    def watched(self, pipe, rows):
        given.update(np.asarray(to_picture(row)).tobytes() for row in rows)
        return encode_image(self, pipe, rows)

    monkeypatch.setattr(StableDiffusion, "encode_image", watched)
    context = prepared([*words, "--train_data_dir", str(data)], tmp_path / "out")
    encode(context)
    sampler, examples = context.plan.sampler, context.data.shown.examples
    places = [place for step in range(sampler.num_steps(1)) for place in sampler.step(step)]
    assert [row["of"] for row in rows] == [examples[place.index].name for place in places]
    for row in rows:
        with Image.open(preview / row["file_name"]) as opened:
            assert np.asarray(opened).tobytes() in given


def test_a_preview_says_what_is_not_drawn_yet(flags, data, hills, tmp_path, capsys):
    preview = tmp_path / "preview"
    words = [*flags, *PRIOR, "--class_data_dir", str(hills), "--preview_dataset", str(preview)]
    assert main(["check", str(data), *words]) == 0
    assert "without 4 pictures of the class that the base has yet to draw" in capsys.readouterr().err
    assert len({row["of"] for row in flaws.rows_of(preview) if row["is_class"]}) == 13
