"""Tables as other programs write them: images as bytes or paths, single files, other splits."""

import json

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.data.sources import read_sources
from pipeline.errors import DataError

pytestmark = pytest.mark.unit


@pytest.fixture
def rows(colours):
    return [json.loads(line) for line in (colours / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def expected(colours):
    return content(read_manifest(colours, DataOptions()))


def content(manifest):
    return [(example.id, example.captions) for example in manifest.examples]


def options_of(place, tmp_path, **more):
    return DataOptions(dataset_name=str(place), cache_dir=str(tmp_path / "cache"), **more)


def read(place, tmp_path, **more):
    return content(read_sources(options_of(place, tmp_path, **more)))


@pytest.mark.parametrize("kind", ["struct", "bytes", "large bytes", "paths", "paths in a struct", "absolute paths"])
def test_a_column_of_images_however_they_are_kept(colours, rows, expected, tmp_path, kind):
    names = [row["file_name"] for row in rows]
    stored = [(colours / name).read_bytes() for name in names]
    column = {
        "struct": [{"bytes": found, "path": name} for found, name in zip(stored, names, strict=True)],
        "bytes": stored,
        "large bytes": pyarrow.array(stored, pyarrow.large_binary()),
        "paths": names,
        "paths in a struct": [{"bytes": None, "path": name} for name in names],
        "absolute paths": [str(colours / name) for name in names],
    }[kind]
    table = pyarrow.table({"image": column, "text": [row["text"] for row in rows]})
    (colours / "metadata.jsonl").unlink()
    parquet.write_table(table, colours / "data.parquet")
    assert read(colours / "data.parquet", tmp_path) == expected
    if "paths" not in kind:
        (tmp_path / "folder").mkdir()
        parquet.write_table(table, tmp_path / "folder" / "data.parquet")
        assert read(tmp_path / "folder", tmp_path) == expected


@pytest.mark.parametrize("name", ["data.csv", "data.jsonl"])
def test_a_file_of_paths_is_a_table(colours, rows, expected, tmp_path, name):
    table = datasets.Dataset.from_list(rows)
    (table.to_csv if name.endswith("csv") else table.to_json)(colours / name)
    assert read(colours / name, tmp_path) == expected


def test_a_path_without_a_file_names_its_row(tmp_path):
    paths = ["gone.png", None, "https://example.org/a.png"]
    parquet.write_table(pyarrow.table({"image": paths, "text": ["a", "b", "c"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError) as error:
        read_sources(options_of(tmp_path / "x.parquet", tmp_path))
    assert f"row 0: there is no file {tmp_path / 'gone.png'}" in str(error.value)
    assert "row 1: cannot be used: there is nothing in it" in str(error.value)
    assert "row 2: cannot be used: https://example.org/a.png is an address" in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"), [("metadata.csv", "give --train_data_dir"), ("images.zip", "a file of no kind that is read")]
)
def test_a_file_that_is_no_table_says_what_to_give(tmp_path, name, said):
    (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=said):
        read_sources(options_of(tmp_path / name, tmp_path))


def test_a_column_of_another_kind_says_what_there_is(tmp_path):
    parquet.write_table(pyarrow.table({"image": [1, 2], "text": ["a", "b"]}), tmp_path / "x.parquet")
    with pytest.raises(
        DataError, match=r"no column of images called 'image' \(there is image \(int64\), text \(string\)"
    ):
        read_sources(options_of(tmp_path / "x.parquet", tmp_path))


def test_a_folder_of_images_with_caption_files_is_no_table(colours, tmp_path):
    (colours / "metadata.jsonl").unlink()
    (colours / "red.txt").write_text("red", encoding="utf-8")
    with pytest.raises(DataError, match="images with a caption file each are read by --train_data_dir"):
        read_sources(options_of(colours, tmp_path))


def test_without_a_train_split_the_splits_are_named(tmp_path):
    table = datasets.Dataset.from_dict({"image": [b""], "text": ["a"]})
    datasets.DatasetDict({"test": table, "extra": table}).save_to_disk(tmp_path / "disk")
    (tmp_path / "files").mkdir()
    table.to_parquet(tmp_path / "files" / "test-00000-of-00001.parquet")
    for place, there in (("disk", "test, extra"), ("files", "test")):
        with pytest.raises(DataError, match=rf"has no train split \(there is {there}\)"):
            read_sources(options_of(tmp_path / place, tmp_path))


def test_a_saved_table_as_train_data_dir_says_which_flag_reads_it(tmp_path):
    datasets.Dataset.from_dict({"image": [b""], "text": ["a"]}).save_to_disk(tmp_path / "disk")
    with pytest.raises(DataError, match=r"is a table; give the folder as --dataset_name"):
        read_manifest(tmp_path / "disk", DataOptions())


def test_a_table_without_captions_takes_the_instance_prompt(colours, rows, tmp_path):
    table = pyarrow.table({"image": [(colours / row["file_name"]).read_bytes() for row in rows]})
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no 'text'"):
        read_sources(options_of(tmp_path / "x.parquet", tmp_path))
    found = read_sources(options_of(tmp_path / "x.parquet", tmp_path, instance_prompt="a square"))
    assert {example.caption for example in found.examples} == {"a square"}
