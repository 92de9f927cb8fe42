"""`check --croissant`, as typed: what is written is what MLCommons' own reader validates and reads the dataset with."""

import csv
import hashlib
import json
import os
import sys
from importlib.metadata import version

import mlcroissant
import numpy as np
import pytest
from PIL import Image

from pipeline.__main__ import main
from tests.audit import flaws
from tests.data.test_card import written

pytestmark = pytest.mark.unit


@pytest.fixture
def flags(miniature, tmp_path):
    return ["--pretrained_model_name_or_path", str(miniature), "--cache_dir", str(tmp_path / "cache"), "--masked_loss"]


@pytest.fixture
def data(tmp_path):
    """Pictures in three formats, one in a sub-folder, one with two captions; a mask beside one."""
    folder = flaws.clean(tmp_path / "boats", 5)
    rows = flaws.rows_of(folder)
    (folder / "sub").mkdir()
    for number, name in ((1, "sub/one.jpg"), (2, "two.webp")):
        flaws.picture(40 + number).save(folder / name)
        (folder / rows[number]["file_name"]).unlink()
        rows[number] |= {"file_name": name}
    rows[3]["text"] = ['a boat, "fast"\nin fog', "Ein Boot für 日本"]
    flaws.write_rows(folder, rows)
    flaws.picture(9).convert("L").save(folder / "004.mask.png")
    return folder


def records_of(folder):
    dataset = mlcroissant.Dataset(folder / "croissant.json")
    return [
        {name.partition("/")[2]: value.decode() if isinstance(value, bytes) else value for name, value in row.items()}
        for row in dataset.records("pictures")
    ]


def test_mlcroissant_reads_every_picture_with_every_caption(flags, data, capsys):
    card = written(data.parent / "boats.md", pretty_name="Boats at sea", citation="'Doe, J. (2026). Boats.'")
    assert main(["check", str(data), *flags, "--croissant", "--data_card", str(card)]) == 0
    assert f"croissant.json, found valid by mlcroissant {version('mlcroissant')}\n" in capsys.readouterr().err
    rows = {row["file_name"]: row["text"] for row in flaws.rows_of(data)}
    pairs = [(name, text) for name, texts in rows.items() for text in ([texts] if isinstance(texts, str) else texts)]
    pairs = [(name, " ".join(text.split())) for name, text in pairs]
    found = records_of(data)
    assert sorted((row["path"], row["caption"]) for row in found) == sorted(pairs)
    for row in found:
        assert row["sha256"] == hashlib.sha256((data / row["path"]).read_bytes()).hexdigest()
        with Image.open(data / row["path"]) as opened:
            assert np.array_equal(np.asarray(row["image"].convert("RGB")), np.asarray(opened.convert("RGB")))
    metadata = mlcroissant.Dataset(data / "croissant.json").metadata
    assert (metadata.name, metadata.license) == ("Boats at sea", ["cc-by-4.0"])
    assert metadata.cite_as == "Doe, J. (2026). Boats."
    assert "Source: photos by the author. Why it may be used: own work." in metadata.description
    described = json.loads((data / "croissant.json").read_text(encoding="utf-8"))
    assert described["distribution"][1]["encodingFormat"] == ["image/jpeg", "image/png", "image/webp"]


def test_writing_it_changes_nothing_that_is_found_and_it_can_be_written_again(flags, data, capsys):
    words = ["check", str(data), *flags, "--croissant", "--json"]
    assert main(words) == 0
    first, described = capsys.readouterr(), (data / "croissant.json").read_bytes()
    assert "without a license, for there is no card" in first.err
    assert "license" not in json.loads(described)
    assert main(words) == 0
    assert capsys.readouterr().out == first.out
    assert (data / "croissant.json").read_bytes() == described


def test_pictures_of_one_name_are_told_apart_by_their_paths(flags, data):
    (data / "more").mkdir()
    flaws.picture(30).save(data / "more" / "000.png")
    with (data / "metadata.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({**flaws.rows_of(data)[0], "file_name": "more/000.png", "text": "another"}) + "\n")
    assert main(["check", str(data), *flags, "--croissant"]) == 0
    (records,) = json.loads((data / "croissant.json").read_text(encoding="utf-8"))["recordSet"]
    references = {field["name"]: field["references"] for field in records["field"] if "references" in field}
    assert references == {"path": {"fileSet": {"@id": "files"}, "extract": {"fileProperty": "fullpath"}}}
    with (data / "croissant.csv").open(encoding="utf-8", newline="") as file:
        assert {"000.png", "more/000.png"} <= {row["path"] for row in csv.DictReader(file)}


def test_a_wrong_description_is_named(flags, data, capsys, monkeypatch):
    from pipeline.data import croissant

    monkeypatch.setattr(croissant, "_patterns", lambda pictures: [])
    assert main(["check", str(data), *flags, "--croissant"]) == 2
    assert "finds it wrong" in capsys.readouterr().err


def test_without_mlcroissant_it_is_written_and_said_not_to_be_validated(flags, data, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlcroissant", None)
    assert main(["check", str(data), *flags, "--croissant"]) == 0
    said = capsys.readouterr().err
    assert 'not validated: that needs mlcroissant (pip install "t2i-lora[croissant]")' in said
    monkeypatch.undo()
    assert len(records_of(data)) == 6


def test_names_that_are_no_text_are_all_named_before_anything_is_looked_at(flags, tmp_path, capsys, monkeypatch):
    from pipeline.commands import check

    data = flaws.clean(tmp_path / "boats", 2)
    rows = flaws.rows_of(data)
    for row, name in zip(rows, (b"caf\xe9.png", b"\xe8.png"), strict=True):
        os.rename(data / row["file_name"], os.path.join(os.fsencode(data), name))
        (data / os.fsdecode(name)).with_suffix(".txt").write_text(row["text"])
    (data / "metadata.jsonl").unlink()
    monkeypatch.setattr(check, "audit", lambda *given, **more: pytest.fail("it was looked at"))
    assert main(["check", str(data), *flags, "--croissant"]) == 2
    said = capsys.readouterr().err
    assert "these are not UTF-8: caf\\xe9.png, \\xe8.png; rename them." in said
    assert "Traceback" not in said


def test_what_cannot_be_described_is_refused(flags, data, tmp_path, capsys):
    assert main(["check", *flags, "--croissant"]) == 2
    assert "--croissant writes into the dataset's folder; name it." in capsys.readouterr().err
    assert main(["check", *flags, "--dataset_name", "user/photos", "--croissant"]) == 2
    assert "user/photos is a table; the Hub describes its own" in capsys.readouterr().err
    (data / "000.png").rename(tmp_path / "000.png")
    rows = flaws.rows_of(data)
    flaws.write_rows(data, [{**rows[0], "file_name": "lost.png"}, *rows[1:]])
    assert main(["check", str(data), *flags, "--croissant"]) == 2
    assert "is not written: training refuses this dataset" in capsys.readouterr().err
    assert not (data / "croissant.json").exists()


def test_what_somebody_else_wrote_stays(flags, data, capsys):
    (data / "croissant.json").write_text('{"@type": "sc:Dataset", "name": "theirs"}')
    assert main(["check", str(data), *flags, "--croissant"]) == 2
    assert "t2i-lora did not write" in capsys.readouterr().err
    assert "theirs" in (data / "croissant.json").read_text()
