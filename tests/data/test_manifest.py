import json
import shutil

import pytest
from PIL import Image

from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.errors import DataError
from tests.conftest import make_colours

pytestmark = pytest.mark.unit


def content(manifest):
    return [(example.id, example.caption) for example in manifest.examples]


def test_layouts_names_and_places_do_not_matter(colours, tmp_path):
    sidecar = tmp_path / "elsewhere" / "日本 ü space"
    sidecar.mkdir(parents=True)
    for line in (colours / "metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        shutil.copy(colours / row["file_name"], sidecar / f"画像 {row['file_name']}")
        (sidecar / f"画像 {row['file_name']}").with_suffix(".txt").write_bytes(
            b"\xef\xbb\xbf" + row["text"].replace(" ", "\r\n", 1).encode()
        )
    for junk in (".DS_Store", "._x.png", "Thumbs.db", "notes.md"):
        (sidecar / junk).write_text("junk")
    (sidecar / ".ipynb_checkpoints").mkdir()
    shutil.copy(colours / "red.png", sidecar / ".ipynb_checkpoints" / "red.png")
    assert content(read_manifest(colours, DataOptions())) == content(read_manifest(sidecar, DataOptions()))


def test_every_problem_is_named_at_once(colours):
    (colours / "cut.png").write_bytes((colours / "red.png").read_bytes()[:60])
    (colours / "empty.png").write_bytes(b"")
    (colours / "page.jpg").write_text("<html></html>")
    (colours / "extra.png").write_bytes((colours / "red.png").read_bytes())
    (colours / "phone.jxl").write_bytes(b"x")
    with (colours / "metadata.jsonl").open("a") as file:
        for name in ("cut.png", "empty.png", "page.jpg", "gone.png"):
            file.write(json.dumps({"file_name": name, "text": "something"}) + "\n")
    with pytest.raises(DataError) as error:
        read_manifest(colours, DataOptions())
    for name in ("cut.png", "empty.png", "page.jpg", "extra.png", "gone.png", "phone.jxl"):
        assert name in str(error.value)
    assert "red.png" not in str(error.value)


def test_each_image_once_whatever_its_rows(tmp_path):
    for name, colour in (("a", "red"), ("b", "blue"), ("c", "red")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    rows = [{"file_name": f"{name}.png", "text": text} for name, text in (("a", "x"), ("b", "y"), ("c", "z"))]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    whole = read_manifest(tmp_path, DataOptions())
    each = whole.of_each_image()
    assert len({example.image_id for example in each.examples}) == len(each.examples) == 2
    assert [example for example in whole.examples if example in each.examples] == list(each.examples)
    assert each.notes[-1] == "of 3 rows 1 show a picture again; each is drawn for its first caption"
    assert each.of_each_image() == each


def test_skipping_is_explicit_and_counted(colours):
    (colours / "red.png").write_bytes(b"\x89PNG broken")
    manifest = read_manifest(colours, DataOptions(on_bad_image="skip"))
    assert len(manifest.examples) == 7
    assert [line.split(":")[0] for line in manifest.skipped] == ["red.png"]


def test_missing_captions(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), "red" if name == "a" else "blue").save(tmp_path / f"{name}.PNG")
    (tmp_path / "a.txt").write_text("a red picture")
    (tmp_path / "b.txt").write_text("  \n")
    with pytest.raises(DataError, match=r"b\.PNG"):
        read_manifest(tmp_path, DataOptions())
    assert len(read_manifest(tmp_path, DataOptions(missing_caption="skip")).examples) == 1
    captions = {example.caption for example in read_manifest(tmp_path, DataOptions(missing_caption="empty")).examples}
    assert captions == {"a red picture", ""}
    (tmp_path / "a.txt").unlink()
    with pytest.raises(DataError, match="not one of the 2 images has a caption"):
        read_manifest(tmp_path, DataOptions(missing_caption="empty"))


def test_a_caption_that_is_not_utf8_names_the_byte(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("caf\u00e9".encode("cp1252"))
    with pytest.raises(DataError, match=r"a\.txt: byte 3 \(0xe9\)"):
        read_manifest(tmp_path, DataOptions())


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"file": "red.png", "text": "x"}', "file, text"),
        ('{"file_name": "red.png", "caption": "x"}', "caption"),
        ('{"file_name": "red.png", "text": 3}', "int"),
        ("{oops", "not JSON"),
    ],
)
def test_a_wrong_row_says_what_there_is(colours, row, said):
    (colours / "metadata.jsonl").write_text(row + "\n")
    with pytest.raises(DataError, match="line 1") as error:
        read_manifest(colours, DataOptions())
    assert said in str(error.value)


def test_copies_are_named_and_keep_draws_of_their_own(colours):
    shutil.copy(colours / "red.png", colours / "again.png")
    with (colours / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "again.png", "text": "a red square"}) + "\n")
    manifest = read_manifest(colours, DataOptions())
    assert manifest.duplicates == ("again.png = red.png",)
    assert len({example.id for example in manifest.examples}) == 9


def test_a_limit_takes_the_same_examples_whatever_they_are_called(colours, tmp_path):
    few = read_manifest(colours, DataOptions()).limited(3)
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for number, line in enumerate((colours / "metadata.jsonl").read_text().splitlines()):
        row = json.loads(line)
        shutil.copy(colours / row["file_name"], renamed / f"{number}.png")
        (renamed / f"{number}.txt").write_text(row["text"])
    assert content(few) == content(read_manifest(renamed, DataOptions()).limited(3))


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_a_folder_that_is_none(tmp_path, kind):
    folder = tmp_path / "data"
    if kind == "file":
        folder.write_text("x")
    if kind == "empty":
        folder.mkdir()
    with pytest.raises(DataError, match="data"):
        read_manifest(folder, DataOptions())


def test_nested_folders_are_read(tmp_path):
    make_colours(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "metadata.jsonl").unlink()
    for path in (tmp_path / "a" / "b").glob("*.png"):
        path.with_suffix(".txt").write_text(path.stem)
    assert len(read_manifest(tmp_path, DataOptions()).examples) == 8
