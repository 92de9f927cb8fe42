"""Which adapter a run began with: what is read of it counts, not what lies beside it."""

import shutil

import pytest

from pipeline.adapter.files.reader import PEFT_CONFIG, PEFT_FILE, files_of, fingerprint_of
from pipeline.adapter.names import FILE
from pipeline.errors import CheckpointError

pytestmark = pytest.mark.unit


def test_of_a_run_the_adapter_alone_counts(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / FILE).write_bytes(b"weights")
    before = fingerprint_of(str(run))
    (run / "report.html").write_text("read", encoding="utf-8")
    (run / "evaluation").mkdir()
    (run / "evaluation" / "note.txt").write_text("looked", encoding="utf-8")
    shutil.copytree(run, tmp_path / "moved")
    assert (
        before == fingerprint_of(str(run)) == fingerprint_of(str(run / FILE)) == fingerprint_of(str(tmp_path / "moved"))
    )
    (run / FILE).write_bytes(b"other weights")
    assert fingerprint_of(str(run)) != before
    assert fingerprint_of(None) is None


def test_of_pefts_folders_both_files_count_and_where_they_lie(tmp_path):
    for name in ("unet", "text_encoder"):
        (tmp_path / "both" / name).mkdir(parents=True)
        for file in (PEFT_CONFIG, PEFT_FILE):
            (tmp_path / "both" / name / file).write_text(name, encoding="utf-8")
    alone, both = tmp_path / "both" / "unet", tmp_path / "both"
    assert files_of(alone) == files_of(alone / PEFT_FILE) == [alone / PEFT_CONFIG, alone / PEFT_FILE]
    assert len(files_of(both)) == 4
    before = fingerprint_of(str(alone)), fingerprint_of(str(both))
    (alone / PEFT_CONFIG).write_text("another alpha", encoding="utf-8")
    changed = fingerprint_of(str(alone)), fingerprint_of(str(both))
    assert len({*before, *changed}) == 4
    (both / "text_encoder").rename(both / "text_encoder_2")
    assert fingerprint_of(str(both)) not in (before[1], changed[1])
    (tmp_path / PEFT_FILE).write_text("weights of diffusers' names, with nothing beside them", encoding="utf-8")
    assert files_of(tmp_path / PEFT_FILE) == [tmp_path / PEFT_FILE]
    with pytest.raises(CheckpointError, match="holds neither"):
        files_of(tmp_path)
