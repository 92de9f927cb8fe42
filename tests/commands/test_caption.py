"""check --caption: captions beside pictures that have none, by a model, and never over anything."""

import pytest
from PIL import Image

from pipeline.__main__ import main
from pipeline.commands import caption
from pipeline.console import quiet_libraries
from pipeline.data.options import DataOptions
from pipeline.errors import CheckpointError, ConfigError, DataError
from pipeline.evaluation.extractors import readers
from tests.audit.flaws import picture, write_rows
from tests.commands import captioners

pytestmark = pytest.mark.unit


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "sub/c.png", "d.png")):
        picture(number).save(folder / name)
    (folder / "b.txt").write_text("mine\n")
    (folder / "d.txt").write_text("")
    return folder


@pytest.fixture(scope="session")
def blip(tmp_path_factory):
    return captioners.write_blip(tmp_path_factory.mktemp("blip") / "model")


def test_what_is_missing_is_written_and_nothing_else(photos, blip, capsys):
    before = {path.name: path.read_bytes() for path in photos.rglob("*.*")}
    code = main(["check", str(photos), "--caption", str(blip), "--validation_split", "0"])
    said = capsys.readouterr()
    assert code == 2
    assert "d.png: d.txt exists" in said.err
    assert "1 of 3 pictures got no caption" in said.err
    (photos / "d.txt").unlink()
    assert main(["check", str(photos), "--caption", str(blip), "--validation_split", "0"]) == 0
    said = capsys.readouterr()
    assert f"1 written by {blip}; read them before you train on them" in said.out + said.err
    assert "4 captions" in said.out
    written = {path.relative_to(photos).as_posix(): path.read_text() for path in photos.rglob("*.txt")}
    assert written.keys() == {"a.txt", "b.txt", "d.txt", "sub/c.txt"}
    assert written["b.txt"] == "mine\n"
    assert all(set(text.split()) <= {*captioners.WORDS, "mine"} and text.strip() for text in written.values())
    after = {path.name: path.read_bytes() for path in photos.rglob("*.*")}
    assert {name: after[name] for name in before if name != "d.txt"} == {
        name: content for name, content in before.items() if name != "d.txt"
    }
    assert (
        main(["check", str(photos), "--caption", "nobody/nothing", "--validation_split", "0"]) == 0
    )  # nothing is missing: nothing is loaded


def test_it_is_what_the_model_says_of_the_picture(blip, tmp_path):
    from transformers import BlipForConditionalGeneration, BlipProcessor

    with quiet_libraries():
        describe = readers.load(str(blip), None, "--caption").describe
        processor = BlipProcessor.from_pretrained(blip)
        model = BlipForConditionalGeneration.from_pretrained(blip).eval()
        for number in range(3):
            shown = picture(number).convert("RGB")
            tokens = model.generate(**processor(images=shown, return_tensors="pt"), max_new_tokens=128, do_sample=False)
            assert describe(shown) == processor.decode(tokens[0], skip_special_tokens=True)


def test_a_model_that_is_told_what_to_do_does_not_repeat_it(tmp_path):
    folder = captioners.write_llava(tmp_path / "llava")
    with quiet_libraries():
        told = readers.load(str(folder), "Describe this briefly", "--caption").describe(
            Image.new("RGB", (40, 30), "red")
        )
    assert told
    assert "Describe this briefly" not in told


def test_pictures_that_a_table_describes_are_named(tmp_path, blip):
    folder = tmp_path / "table"
    folder.mkdir()
    picture(0).save(folder / "a.png")
    write_rows(folder, [{"file_name": "a.png", "text": ""}])
    with pytest.raises(DataError, match=r"come from a table, so they have to be written there\.\n  - a\.png"):
        caption.fill(DataOptions(train_data_dir=str(folder), cache_dir=str(tmp_path / "cache")), str(blip), None)


def test_two_pictures_of_one_name_get_a_file_each(tmp_path, blip):
    folder = tmp_path / "twins"
    folder.mkdir()
    picture(0).save(folder / "a.png")
    picture(1).convert("RGB").save(folder / "a.jpg")
    options = DataOptions(train_data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    assert caption.fill(options, str(blip), None) == 2
    assert {path.name for path in folder.glob("*.txt")} == {"a.png.txt", "a.jpg.txt"}
    assert caption.uncaptioned(options) == ([], [])
    (folder / "a.png.txt").unlink()  # one of two has a caption already
    assert [file.name for _, file in caption.uncaptioned(options)[0]] == ["a.png.txt"]
    (folder / "a.png.txt").write_text("again")
    twice = DataOptions(
        source=({"train_data_dir": str(folder)}, {"train_data_dir": str(folder), "repeats": 2}),
        cache_dir=str(tmp_path / "cache"),
    )
    (folder / "a.png.txt").unlink()
    assert len(caption.uncaptioned(twice)[0]) == 1
    with pytest.raises(ConfigError, match="nothing to write where --instance_prompt"):
        caption.fill(DataOptions(train_data_dir=str(folder), instance_prompt="a dog"), str(blip), None)


def test_a_model_that_wants_to_be_asked_otherwise(tmp_path, photos):
    folder = captioners.write_llava(tmp_path / "llava")
    (folder / "chat_template.jinja").unlink()
    options = DataOptions(train_data_dir=str(photos), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match=r"cannot be asked about a\.png \(.*\); see --caption_prompt"):
        caption.fill(options, str(folder), None)


def test_what_is_no_model(photos, tmp_path):
    options = DataOptions(train_data_dir=str(photos), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match="neither the folder of a model nor a Hub id"):
        caption.fill(options, "./nowhere", None)
    with pytest.raises(CheckpointError, match="cannot be loaded as an image-to-text model"):
        caption.fill(options, str(photos), None)
    assert not (photos / "a.txt").exists()
