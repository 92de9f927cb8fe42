"""What a folder holds is read, and what is not read is named."""

import io
import shutil

import pytest
from PIL import Image

from pipeline.data import images
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.errors import DataError
from pipeline.notes import grouped
from tests.conftest import make_colours

pytestmark = pytest.mark.unit
RED, BLUE = (200, 10, 10), (10, 10, 200)


def picture(path, colour=RED, caption="a picture", **how):
    """An image and its caption file; no file where the caption is None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (48, 48), colour).save(path, **how)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def names(folder, **options):
    return {example.name for example in read_manifest(folder, DataOptions(**options)).examples}


def notes(folder, **options):
    return grouped(read_manifest(folder, DataOptions(**options)).notes)


@pytest.mark.parametrize("extension", [".jfif", ".jpe", ".jpg", ".JPEG"])
def test_an_extension_that_stands_for_the_same_format(tmp_path, extension):
    picture(tmp_path / f"x{extension}", format="JPEG")
    assert names(tmp_path) == {f"x{extension}"}


@pytest.mark.parametrize("extension", ["jp2", "tga", "ppm", "pcx", "ico", "qoi", "avif", "dds", "sgi", "apng", "mpo"])
def test_what_pillow_reads_is_read(tmp_path, extension):
    picture(tmp_path / f"x.{extension}")
    assert names(tmp_path) == {f"x.{extension}"}


def test_formats_that_other_programs_would_have_to_draw_are_not_decoded():
    assert not images.extensions() & {".eps", ".ps", ".pdf", ".wmf", ".h5", ".mpg"}
    assert not set(images.formats()) & images.NOT_DECODED
    stored = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stored, "EPS")
    with pytest.raises(OSError, match="cannot identify"):
        images.decode(stored, "white")


def test_images_without_an_extension_are_known_by_their_content(tmp_path):
    for name in ("IMG_1", "mr. cat", "at 10.11.12"):
        picture(tmp_path / "x.png", caption=None).rename(tmp_path / name)
        (tmp_path / f"{name}.txt").write_text(name, encoding="utf-8")
    (tmp_path / "Makefile").write_text("all:\n", encoding="utf-8")
    found = read_manifest(tmp_path, DataOptions())
    assert {example.name: example.caption for example in found.examples} == {
        name: name for name in ("IMG_1", "mr. cat", "at 10.11.12")
    }
    assert found.notes == ("left out: other files are neither images nor captions: Makefile",)


def test_linked_folders_are_read_once(tmp_path):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    picture(data / "a.png")
    picture(data / "z" / "real.png", BLUE)
    picture(elsewhere / "b.png", (1, 2, 3))
    (data / "more").symlink_to(elsewhere)
    (data / "again").symlink_to(data / "z")
    (data / "up").symlink_to(tmp_path)
    (data / "self").symlink_to(data / "self")
    (elsewhere / "back").symlink_to(data)
    assert names(data) == {"a.png", "z/real.png", "more/b.png"}
    (note,) = [line for line in notes(data) if "link" in line]
    assert "(3): again/; up/; more/back/" in note


def test_what_is_left_out_is_named_by_its_kind(tmp_path):
    picture(tmp_path / "a.png")
    for name in ("1.mp4", "2.MP4", "3.mp4", "4.mp4", "a.npz", "b.txt", "a.png~", ".DS_Store", "Thumbs.db", "README.md"):
        (tmp_path / name).write_bytes(b"x")
    for folder in ("__MACOSX", "@eaDir", ".ipynb_checkpoints"):
        picture(tmp_path / folder / "a.png")
    found = notes(tmp_path)
    assert found == (
        "left out: .mp4 files are neither images nor captions (4): 1.mp4; 2.MP4; 3.mp4; and 1 more",
        "left out: .npz files are neither images nor captions: a.npz",
        "left out: .png~ files are neither images nor captions: a.png~",
        "left out: caption files without an image: b.txt",
    )


def test_kinds_that_are_not_read_are_an_error_that_can_be_let_through(tmp_path):
    picture(tmp_path / "a.png")
    for name in ("logo.svg", "phone.JXL", "photo.dng"):
        (tmp_path / name).write_bytes(b"x")
        (tmp_path / name).with_suffix(".txt").write_text("x", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"logo.svg: .svg is not read; convert it to PNG \(--on_bad_image skip"
    ) as error:
        read_manifest(tmp_path, DataOptions())
    assert "3 problem(s)" in str(error.value)
    found = read_manifest(tmp_path, DataOptions(on_bad_image="skip"))
    assert [line.split(":")[0] for line in found.skipped] == ["logo.svg", "phone.JXL", "photo.dng"]
    assert found.notes == ()


def test_rows_of_images_that_are_skipped_are_no_rows_without_a_file(colours):
    with (colours / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "x.svg", "text": "x"}\n{"file_name": "x.mp4", "text": "x"}\n')
    (colours / "x.svg").write_text("<svg/>")
    (colours / "x.mp4").write_text("x")
    with pytest.raises(DataError, match=r"x.mp4 has a row but it is not read as an image") as error:
        read_manifest(colours, DataOptions(on_bad_image="skip"))
    assert "1 problem(s)" in str(error.value)


def test_the_output_folder_of_a_run_is_never_data(tmp_path):
    picture(tmp_path / "a.png")
    for file in ("run.toml", "status.json", "samples/step-1/0.png"):
        (tmp_path / "run" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / file).write_text("")
    assert names(tmp_path) == {"a.png"}
    assert notes(tmp_path) == ("left out: the output folder of a run: run/",)
    with pytest.raises(DataError, match="it is the output folder of a run"):
        read_manifest(tmp_path / "run", DataOptions())


def test_a_folder_of_splits_is_read_split_by_split(tmp_path):
    make_colours(tmp_path / "train")
    picture(tmp_path / "test" / "a.png")
    assert len(names(tmp_path)) == 8
    assert notes(tmp_path) == (f"only {tmp_path / 'train'} is read; left out: test/",)
    held_out = read_manifest(tmp_path, DataOptions(), "--evaluation_data_dir")
    assert [example.name for example in held_out.examples] == ["a.png"]
    shutil.rmtree(tmp_path / "test")
    assert len(names(tmp_path)) == 8
    assert notes(tmp_path) == ()


def test_a_folder_beside_train_that_is_no_split_is_data(tmp_path):
    picture(tmp_path / "train" / "a.png")
    picture(tmp_path / "boats" / "b.png", BLUE)
    assert names(tmp_path) == {"train/a.png", "boats/b.png"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("captions.csv", "if captions.csv holds the captions, call it metadata.csv"),
        ("metadata.tsv", "call it metadata.csv, with the columns file_name and text"),
        ("captions.jsonl", "call it metadata.jsonl"),
        ("metadata.json", "make it metadata.jsonl"),
        ("captions/a.txt", "captions/ holds 1 caption file(s); put each beside its image"),
        ("b.txt", "b.txt: not called like an image"),
        ("images.zip", "images.zip is not opened; unpack it"),
        ("a.json", "a.json: captions are read from .txt or .caption files"),
        ("a.tags", "a.tags: --caption_extension .tags reads such files"),
    ],
)
def test_where_no_image_has_a_caption_what_may_hold_them_is_named(tmp_path, name, said):
    picture(tmp_path / "a.png", caption=None)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x", encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_manifest(tmp_path, DataOptions())
    assert "not one of the 1 images has a caption" in str(error.value)
    assert said in str(error.value)
    assert "--instance_prompt" in str(error.value)
    assert "--missing_caption" not in str(error.value)


def test_a_folder_that_holds_a_table_says_how_to_read_it(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match=r"train\.parquet is a table; give the folder as --dataset_name") as error:
        read_manifest(tmp_path, DataOptions())
    assert "holds no usable image" in str(error.value)
    with pytest.raises(DataError, match="or --dataset_name"):
        read_manifest(tmp_path / "train.parquet", DataOptions())


def test_where_nothing_is_a_picture_what_there_is_instead_is_named(tmp_path):
    for name in ("a.mov", "b.mov", "raw"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"a\.mov and 1 more: \.mov is not read; raw: without an extension it is not"):
        read_manifest(tmp_path, DataOptions())
    picture(tmp_path / "c.png", caption=None)
    with pytest.raises(DataError) as error:
        read_manifest(tmp_path, DataOptions())
    assert ".mov" not in str(error.value)
