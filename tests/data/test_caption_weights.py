"""Several captions of a picture, from several columns, each as often as its weight says."""

import collections

import pytest

from pipeline.data import captions, views
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.errors import DataError
from tests.audit.flaws import picture, write_rows
from tests.conftest import metrics, replaced

pytestmark = pytest.mark.unit
ROWS = [
    {"file_name": "a.png", "text": "a long sentence about boats", "short": "boats", "tags": ["sea", "sail"]},
    {"file_name": "b.png", "text": "a long sentence about trees", "short": "", "tags": ["wood", "leaf"]},
]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number, row in enumerate(ROWS):
        picture(number).save(folder / row["file_name"])
    write_rows(folder, ROWS)
    return folder


def shown(example, options, epochs=2000):
    found = collections.Counter(views.caption_in(example, e, 0, kept=True) for e in range(epochs))
    return {caption: number / epochs for caption, number in found.items()}


def read(data, **given):
    options = DataOptions(train_data_dir=str(data), cache_dir=str(data.parent / "cache"), **given)
    return options, {example.name: example for example in read_manifest(data, options).examples}


def test_columns_are_captions_of_one_picture(data):
    _, found = read(data, caption_column="text,short")
    assert found["a.png"].captions == ("a long sentence about boats", "boats")
    assert found["b.png"].captions == ("a long sentence about trees",)
    _, found = read(data, caption_column="short, tags, text")
    assert found["a.png"].captions == ("boats", "sea", "sail", "a long sentence about boats")


def test_each_is_shown_as_often_as_its_weight_says(data):
    options, found = read(data, caption_column="text,short,tags", caption_weights="3,1,0,1")
    assert found["a.png"].captions == ("a long sentence about boats", "boats", "sail")
    assert found["a.png"].weights == (3.0, 1.0, 1.0)
    parts = shown(found["a.png"], options)
    assert parts.keys() == {"a long sentence about boats", "boats", "sail"}
    assert parts["a long sentence about boats"] == pytest.approx(0.6, abs=0.04)
    assert parts["boats"] == pytest.approx(0.2, abs=0.03)
    other = shown(found["b.png"], options)  # the weight of what is missing goes to the others
    assert other["a long sentence about trees"] == pytest.approx(0.75, abs=0.04)
    assert other.keys() == {"a long sentence about trees", "leaf"}


def test_what_does_not_fit_is_named(data):
    with pytest.raises(DataError) as error:
        read(data, caption_column="text,short,tags", caption_weights="3,1")
    assert str(error.value).count("it has 4 caption(s), and --caption_weights 2") == 2
    with pytest.raises(DataError, match=r"line 2, b\.png: it has only captions that --caption_weights shows never"):
        read(data, caption_column="text,short", caption_weights="0,1")
    with pytest.raises(DataError, match="no 'colour' "):
        read(data, caption_column="text,colour")
    for given, said in (("1,-1", "from 0 on"), ("0,0", "not all of them 0"), ("a", "no numbers")):
        assert any(said in problem for problem in DataOptions(caption_weights=given).problems())
    assert DataOptions(caption_column="a,b", caption_template="{a}").problems()


def test_equal_captions_add_their_weights_up():
    assert captions.weighed(["x", "", "y", "x"], [1.0, 5.0, 2.0, 3.0]) == (("x", "y"), (4.0, 2.0))
    assert captions.weighed(["x", "", "y", "x"], []) == (("x", "y"), ())


def test_a_run_shows_them_and_goes_on_after_a_kill(small, data, tmp_path, start, trainer):
    flags = replaced(small, train_data_dir=data, max_train_steps=6, num_validation_images=0)
    more = ["--caption_column", "text,short,tags", "--caption_weights", "3,1,0,1", "--checkpointing_steps", "3"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert trainer(*flags, *more, "--output_dir", whole).code == 0
    running = start(*flags, *more, "--output_dir", cut)
    running.wait_for_step(cut, 4)
    running.kill()
    running.wait()
    assert trainer("--config", cut / "run.toml", "--resume_from_checkpoint", "latest").code == 0
    file = "pytorch_lora_weights.safetensors"
    assert (cut / file).read_bytes() == (whole / file).read_bytes()
    assert [row["loss"] for row in metrics(cut)] == [row["loss"] for row in metrics(whole)]
