"""Caption files beside images: what they may be called, what their lines are, and images without one."""

import pytest
from PIL import Image

from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.data.split import split
from pipeline.data.views import distinct_views
from pipeline.errors import DataError
from pipeline.geometry import Size
from pipeline.notes import grouped

pytestmark = pytest.mark.unit


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, 0, 0)).save(path)
    return path


def write(path, text):
    path.write_text(text, encoding="utf-8")


def captions(folder, **options):
    return {example.name: example.captions for example in read_manifest(folder, DataOptions(**options)).examples}


@pytest.mark.parametrize("name", ["x.caption", "x.png.txt", "x.TXT", "x.png.Caption", "x.txt"])
def test_a_caption_file_may_be_called(tmp_path, name):
    picture(tmp_path / "x.png")
    write(tmp_path / name, "words")
    assert captions(tmp_path) == {"x.png": ("words",)}
    assert read_manifest(tmp_path, DataOptions()).notes == ()


@pytest.mark.parametrize("given", ["tags", ".Tags"])
def test_another_extension_can_be_asked_for(tmp_path, given):
    picture(tmp_path / "x.png")
    write(tmp_path / "x.tags", "1girl, solo")
    write(tmp_path / "x.txt", "words")
    assert captions(tmp_path, caption_extension=given) == {"x.png": ("1girl, solo",)}


def test_two_caption_files_of_one_image_must_agree(tmp_path):
    picture(tmp_path / "x.png")
    write(tmp_path / "x.txt", "words\n")
    write(tmp_path / "x.caption", " words")
    write(tmp_path / "x.png.txt", "")
    assert captions(tmp_path) == {"x.png": ("words",)}
    write(tmp_path / "x.caption", "other words")
    with pytest.raises(DataError, match=r"x.png: x.caption and x.txt are two captions") as error:
        read_manifest(tmp_path, DataOptions())
    assert "--caption_extension" in str(error.value)
    assert "not one of" not in str(error.value)
    assert captions(tmp_path, caption_extension=".caption") == {"x.png": ("other words",)}


def test_lines_are_one_caption_or_several(tmp_path):
    for number in range(5):
        picture(tmp_path / f"{number}.png", number)
        write(tmp_path / f"{number}.txt", "a photo\n\n tags,  outdoors \r\na photo\n" if number else "one line\n\n")
    assert captions(tmp_path)["1.png"] == ("a photo tags, outdoors a photo",)
    assert grouped(read_manifest(tmp_path, DataOptions()).notes) == (
        "caption files with several lines, read as one caption (--caption_lines separate: each is a caption) (4): "
        "1.txt; 2.txt; 3.txt; and 1 more",
    )
    separate = read_manifest(tmp_path, DataOptions(caption_lines="separate"))
    assert {example.captions for example in separate.examples} == {("one line",), ("a photo", "tags, outdoors")}
    assert separate.notes == ()


def test_an_instance_prompt_is_the_caption_of_images_without_one(tmp_path):
    for number in range(3):
        picture(tmp_path / f"{number}.png", number)
    write(tmp_path / "0.txt", "words")
    assert captions(tmp_path, instance_prompt=" a photo of ohwx ") == {
        "0.png": ("words",), "1.png": ("a photo of ohwx",), "2.png": ("a photo of ohwx",)
    }  # fmt: skip
    found = read_manifest(tmp_path, DataOptions(instance_prompt="ohwx"))
    assert grouped(found.notes) == ("images whose caption is --instance_prompt (2): 1.png; 2.png",)
    (tmp_path / "0.txt").unlink()
    assert set(captions(tmp_path, instance_prompt="ohwx").values()) == {("ohwx",)}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trigger_word": "ohwx"}, "lacks the trigger word 'ohwx'"),
        ({"missing_caption": "skip"}, "leave --missing_caption out"),
        ({"caption_template": "a {kind}"}, "give one"),
    ],
)
def test_an_instance_prompt_beside_other_flags(options, said):
    (problem,) = DataOptions(instance_prompt="a photo of zwx", **options).problems()
    assert said in problem


def test_folders_named_for_kohya_count_as_often_as_they_say(tmp_path):
    for number in range(2):
        picture(tmp_path / "3_ohwx cat" / f"{number}.png", number)
        picture(tmp_path / "1_zwx dog" / "more" / f"{number}.png", 100 + number)
    write(tmp_path / "3_ohwx cat" / "0.txt", "the cat sleeps")
    found = read_manifest(tmp_path, DataOptions())
    assert len(found.examples) == 8
    assert len({example.id for example in found.examples}) == 8
    said = [example.caption for example in found.examples]
    assert {caption: said.count(caption) for caption in said} == {"the cat sleeps": 3, "ohwx cat": 3, "zwx dog": 2}
    assert found.duplicates == ()
    assert grouped(found.notes) == (
        "repeats from the names of folders (2): 1_zwx dog/: each image counts once; caption 'zwx dog' for 2 without a "
        "caption file; 3_ohwx cat/: each image counts 3 times; caption 'ohwx cat' for 1 without a caption file",
    )
    prompted = read_manifest(tmp_path, DataOptions(instance_prompt="a cat"))
    assert {example.caption for example in prompted.examples} == {"the cat sleeps", "a cat"}


def test_copies_that_weigh_are_measured_once(tmp_path):
    for number in range(8):
        picture(tmp_path / "5_cat" / f"{number}.png", number)
    whole = read_manifest(tmp_path, DataOptions(random_flip=True))
    assert len({example.image_id for example in whole.limited(6).examples}) == 6
    size = Size.square(8)
    views = {view for example in whole.examples for view in distinct_views(example, seed=0, size=size)}
    assert len(views) <= 2  # of square images, mirrored or not
    train, held_out = split(whole, 0.5)
    assert len(train.examples) == 20
    assert len(held_out.examples) == 4


@pytest.mark.parametrize("other", ["portraits/a.png", "a.png", "0_cat/a.png", "2024_trip/a.png"])
def test_repeats_are_read_only_where_every_folder_is_named_so(tmp_path, other):
    picture(tmp_path / "3_ohwx" / "x.png")
    picture(tmp_path / other, 100)
    found = read_manifest(tmp_path, DataOptions(instance_prompt="x"))
    assert len(found.examples) == 2
    (note,) = [line for line in grouped(found.notes) if "repeats" in line]
    assert "only where every image lies in such a folder, so not here" in note
    assert "3_ohwx/" in note
    with pytest.raises(DataError, match=r"_[a-z]+/ is one among others"):
        read_manifest(tmp_path, DataOptions())


def test_a_single_image_without_a_caption_has_two_ways_through(tmp_path):
    picture(tmp_path / "x.png")
    picture(tmp_path / "y.png", 9)
    write(tmp_path / "x.txt", "x")
    with pytest.raises(DataError, match=r"y.png: no caption \(--missing_caption skip or empty.*--instance_prompt"):
        read_manifest(tmp_path, DataOptions())


def test_a_zero_byte_in_a_caption_is_named_for_what_it_is(colours):
    (colours / "metadata.jsonl").unlink()
    for number, path in enumerate(sorted(colours.glob("*.png"))):
        path.with_suffix(".txt").write_bytes(b"nul\0inside" if number == 0 else b"a square")
    with pytest.raises(DataError, match=r"black\.txt: byte 3 is a zero, which is no text; remove it"):
        read_manifest(colours, DataOptions())
