"""Every layout gives the same examples, and everything odd about one is said at once."""

import csv
import json
import shutil

import datasets
import pytest

from pipeline.data import views
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.data.sources import read_sources
from pipeline.errors import DataError
from tests.conftest import COLOURS

pytestmark = pytest.mark.unit


def content(manifest):
    return [(example.id, example.captions, example.size) for example in manifest.examples]


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def as_csv(folder, target, header=("file_name", "text")):
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("metadata.jsonl"))
    with (target / "metadata.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([row["file_name"], row["text"]] for row in rows_of(folder))
    return target


def table_of(folder, **columns):
    rows = rows_of(folder)
    data = {"image": [str(folder / row["file_name"]) for row in rows], "text": [row["text"] for row in rows], **columns}
    return datasets.Dataset.from_dict(data).cast_column("image", datasets.Image())


def test_all_layouts_give_the_same_examples(colours, tmp_path):
    expected = content(read_manifest(colours, DataOptions()))
    assert content(read_manifest(as_csv(colours, tmp_path / "csv"), DataOptions())) == expected
    named_image = as_csv(colours, tmp_path / "csv2")
    assert content(read_manifest(named_image, DataOptions(image_column="image"))) == expected

    table_of(colours).save_to_disk(tmp_path / "disk")
    assert content(read_sources(DataOptions(dataset_name=str(tmp_path / "disk")))) == expected
    datasets.DatasetDict({"train": table_of(colours)}).save_to_disk(tmp_path / "dict")
    assert content(read_sources(DataOptions(dataset_name=str(tmp_path / "dict")))) == expected
    (tmp_path / "hub" / "data").mkdir(parents=True)
    table_of(colours).to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    options = DataOptions(dataset_name=str(tmp_path / "hub"), cache_dir=str(tmp_path / "cache"))
    assert content(read_sources(options)) == expected


def test_a_template_turns_columns_into_conditions(colours, tmp_path):
    rows = [{**row, "colour": row["text"].split()[1], "size": 3} for row in rows_of(colours)]
    (colours / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    options = DataOptions(caption_template="{colour} on {{grey}}, size {size}")
    expected = {f"{name} on {{grey}}, size 3" for name in COLOURS}
    assert {example.caption for example in read_manifest(colours, options).examples} == expected

    names = sorted(COLOURS)
    kinds = datasets.ClassLabel(names=names)
    table = table_of(colours, colour=[names.index(row["colour"]) for row in rows], size=[3] * 8)
    table.cast_column("colour", kinds).save_to_disk(tmp_path / "disk")
    found = read_sources(DataOptions(dataset_name=str(tmp_path / "disk"), caption_template=options.caption_template))
    assert {example.caption for example in found.examples} == expected


def test_a_template_without_its_columns_says_what_there_is(colours):
    with pytest.raises(DataError, match=r"no 'kind' \(there is text\)") as error:
        read_manifest(colours, DataOptions(caption_template="a {kind}"))
    assert "and 7 more" in str(error.value)
    (colours / "metadata.jsonl").unlink()
    with pytest.raises(DataError, match="takes its words from columns"):
        read_manifest(colours, DataOptions(caption_template="a {kind}", missing_caption="empty"))


def test_an_empty_cell_of_a_template_names_its_row(colours):
    rows = [{**row, "kind": "" if row["file_name"] == "teal.png" else "square"} for row in rows_of(colours)]
    (colours / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError, match=r"teal\.png: 'kind' is empty") as error:
        read_manifest(colours, DataOptions(caption_template="a {kind}"))
    assert "red.png" not in str(error.value)


@pytest.mark.parametrize("template", ["no column", "{", "{colour:>9}", "{colour!r}", "{}"])
def test_a_template_that_cannot_work_is_refused_at_once(template):
    problems = DataOptions(caption_template=template).problems()
    assert len(problems) == 1
    assert "--caption_template" in problems[0]


def test_several_captions_are_drawn_by_epoch_and_the_first_is_measured(colours, tmp_path):
    rows = rows_of(colours)
    rows[0]["text"] = ["a red square", "something red", " a red  square "]
    (colours / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    example = next(e for e in read_manifest(colours, DataOptions()).examples if e.name == "red.png")
    assert example.captions == ("a red square", "something red")
    assert example.caption == "a red square"
    drawn = [views.caption_in(example, epoch, 0, kept=True) for epoch in range(200)]
    assert 70 < drawn.count("something red") < 130
    assert drawn == [views.caption_in(example, epoch, 0, kept=True) for epoch in range(200)]
    texts = [row["text"] if isinstance(row["text"], list) else [row["text"]] for row in rows]
    table = datasets.Dataset.from_dict({"image": [str(colours / row["file_name"]) for row in rows], "text": texts})
    table.cast_column("image", datasets.Image()).save_to_disk(tmp_path / "disk")
    same = read_sources(DataOptions(dataset_name=str(tmp_path / "disk")))
    assert content(same) == content(read_manifest(colours, DataOptions()))


def test_captions_without_the_trigger_word_are_named(colours):
    with pytest.raises(DataError) as error:
        read_manifest(colours, DataOptions(trigger_word="red"))
    assert "'a blue square' lacks the trigger word 'red'" in str(error.value)
    assert "'a red square'" not in str(error.value)
    assert len(read_manifest(colours, DataOptions(trigger_word="SQUARE")).examples) == 8
    with pytest.raises(DataError, match="lacks the trigger word 'squar'"):
        read_manifest(colours, DataOptions(trigger_word="squar"))


def test_a_csv_with_ragged_rows_names_the_lines(colours, tmp_path):
    folder = as_csv(colours, tmp_path / "csv")
    with (folder / "metadata.csv").open("a", encoding="utf-8") as file:
        file.write("red.png,a,b\nblue.png\n")
    with pytest.raises(DataError) as error:
        read_manifest(folder, DataOptions())
    assert "metadata.csv, line 10: not as many cells" in str(error.value)
    assert "metadata.csv, line 11: not as many cells" in str(error.value)


def test_two_metadata_files_are_refused(colours, tmp_path):
    folder = as_csv(colours, tmp_path / "csv")
    shutil.copy(colours / "metadata.jsonl", folder)
    with pytest.raises(DataError, match="keep one"):
        read_manifest(folder, DataOptions())


def test_a_table_without_images_says_what_there_is(colours, tmp_path):
    table_of(colours).rename_column("image", "picture").save_to_disk(tmp_path / "disk")
    with pytest.raises(DataError, match=r"no column of images called 'image' \(there is picture \(Image\), text"):
        read_sources(DataOptions(dataset_name=str(tmp_path / "disk")))


def test_an_unknown_class_is_no_class(colours, tmp_path):
    table = table_of(colours, kind=[0, 1, -1, 0, 1, 0, 1, 0]).cast_column("kind", datasets.ClassLabel(names=["a", "b"]))
    table.save_to_disk(tmp_path / "disk")
    with pytest.raises(DataError, match="row 2: 'kind' is empty") as error:
        read_sources(DataOptions(dataset_name=str(tmp_path / "disk"), caption_template="a {kind}"))
    assert "1 problem" in str(error.value)


def test_other_pictures_of_a_table_are_left_alone(colours, tmp_path):
    broken = [{"bytes": b"oops", "path": None}] * 8
    rows = rows_of(colours)
    data = {"image": [str(colours / row["file_name"]) for row in rows], "text": [row["text"] for row in rows]}
    table = datasets.Dataset.from_dict({**data, "mask": broken})
    table.cast_column("image", datasets.Image()).cast_column("mask", datasets.Image()).save_to_disk(tmp_path / "disk")
    found = read_sources(DataOptions(dataset_name=str(tmp_path / "disk")))
    assert content(found) == content(read_manifest(colours, DataOptions()))


def test_a_csv_with_an_index_column_is_read(colours, tmp_path):
    folder = as_csv(colours, tmp_path / "csv")
    lines = (folder / "metadata.csv").read_text(encoding="utf-8-sig").splitlines()
    lines = [("" if number == 0 else str(number)) + "," + line for number, line in enumerate(lines)]
    (folder / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    assert content(read_manifest(folder, DataOptions())) == content(read_manifest(colours, DataOptions()))


def test_numbers_that_are_none_are_named(colours):
    rows = [{**row, "size": float("nan") if row["file_name"] == "teal.png" else 3} for row in rows_of(colours)]
    (colours / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError, match=r"teal\.png: 'size' is empty or no single value"):
        read_manifest(colours, DataOptions(caption_template="a square of {size}"))


def test_a_broken_image_in_a_table_is_named_and_can_be_skipped(colours, tmp_path):
    rows = [
        {"image": {"bytes": (colours / f"{name}.png").read_bytes(), "path": None}, "text": name} for name in COLOURS
    ]
    rows[3]["image"]["bytes"] = b"oops"
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "disk")
    with pytest.raises(DataError, match="row 3: cannot be decoded: it is not an image"):
        read_sources(DataOptions(dataset_name=str(tmp_path / "disk")))
    manifest = read_sources(DataOptions(dataset_name=str(tmp_path / "disk"), on_bad_image="skip"))
    assert len(manifest.examples) == 7


@pytest.mark.parametrize("name", ["./gone", "/gone/away", "a/b/c"])
def test_a_dataset_that_is_not_there(name):
    with pytest.raises(DataError, match="does not exist"):
        read_sources(DataOptions(dataset_name=name))


def test_a_dataset_that_the_hub_does_not_give(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="neither a folder here nor to be had from the Hub"):
        read_sources(DataOptions(dataset_name="nobody/nothing"))
