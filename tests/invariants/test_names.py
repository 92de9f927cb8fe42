"""Names of files that are no UTF-8: images train under an escaped name, folders are refused before anything."""

import json
import os

import pytest
from PIL import Image

from tests.conftest import replaced, status

pytestmark = pytest.mark.invariant
ODD = os.fsdecode(b"caf\xe9")


def test_images_with_such_names_are_trained_on_under_an_escaped_one(trainer, small, colours, tmp_path):
    (colours / "metadata.jsonl").unlink()
    for path in list(colours.glob("*.png")):
        path.with_suffix(".txt").write_text("a square", encoding="utf-8")
        for file in (path, path.with_suffix(".txt")):
            file.rename(file.with_name(f"{ODD} {file.name}"))
    Image.new("RGB", (8, 8)).save(colours / f"{ODD}.png")
    out = tmp_path / "out"
    flags = [*replaced(small, max_train_steps=1, num_validation_images=0), "--output_dir", str(out)]
    ended = trainer(*flags)
    assert ended.code == 2
    assert "caf\\xe9.png: no caption" in ended.output
    ended = trainer(*flags, "--missing_caption", "skip")
    assert ended.code == 0, ended.output
    assert status(out)["state"] == "done"
    assert "left out: caf\\xe9.png: no caption" in ended.output
    assert "caf\\xe9.png: no caption" in (out / "notes.txt").read_text(encoding="utf-8")
    shown = json.loads((out / "samples" / "data" / "index.json").read_text(encoding="utf-8"))
    assert "caf\\xe9 red.png" in json.dumps(shown, ensure_ascii=False).replace("\\\\", "\\")
    ended = trainer("--config", out / "run.toml", "--resume_from_checkpoint", "latest")
    assert ended.code == 0, ended.output


def test_folders_with_such_names_are_refused_at_once(trainer, small, colours, tmp_path):
    odd = tmp_path / ODD
    colours.rename(odd)
    for flags in (
        [*replaced(small, train_data_dir=odd), "--output_dir", str(tmp_path / "out")],
        [*small, "--output_dir", str(tmp_path / ODD / "out")],
        ["--dataset_name", str(odd), "--dry_run"],
    ):
        ended = trainer(*flags)
        assert ended.code == 2, ended.output
        assert "caf\\xe9" in ended.output
        assert "UTF-8" in ended.output
        assert "Traceback" not in ended.output
    assert not (tmp_path / "out").exists()
