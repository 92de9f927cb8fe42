"""What changed in the data since a run began is named."""

import dataclasses
import shutil

import pytest

from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.run import kept_examples
from pipeline.run.preflight import RunData
from tests.conftest import make_shapes


@pytest.fixture
def data(tmp_path):
    folder = make_shapes(tmp_path / "data", 6)

    def read(held_out: int = 0) -> RunData:
        """The folder as it is now; the last `held_out` files of it are held out."""
        whole = read_manifest(folder, DataOptions())
        names = sorted(example.name for example in whole.examples)[-held_out:] if held_out else []
        train, held = (
            dataclasses.replace(whole, examples=[e for e in whole.examples if (e.name in names) is which])
            for which in (False, True)
        )
        return RunData(train, held if held_out else None, None, None)

    read.folder = folder
    return read


def test_of_equal_data_nothing_is_said(data, tmp_path):
    kept_examples.write(tmp_path, data(2))
    assert kept_examples.changes_since(tmp_path, data(2)) == ""
    shutil.move(data.folder, data.folder.with_name("elsewhere"))
    shutil.copytree(data.folder.with_name("elsewhere"), data.folder)
    assert kept_examples.changes_since(tmp_path, data(2)) == ""


def test_every_change_is_named(data, tmp_path):
    kept_examples.write(tmp_path, data(1))
    pictures = sorted(data.folder.glob("*.png"))
    rewritten, repainted, gone, moved = (path.name for path in (pictures[0], pictures[1], pictures[2], pictures[4]))
    (data.folder / rewritten).with_suffix(".txt").write_text("something new", encoding="utf-8")
    (data.folder / repainted).write_bytes((data.folder / gone).read_bytes())
    pictures[2].unlink()
    pictures[2].with_suffix(".txt").unlink()
    shutil.copy(pictures[3], data.folder / "02 twin\u2028.png")
    (data.folder / "02 twin\u2028.txt").write_text("its other caption", encoding="utf-8")
    assert kept_examples.changes_since(tmp_path, data(2)).split("\n") == [
        "",
        "Of the examples:",
        f"  - {rewritten}: something else is written of it",
        f"  - {repainted} is another picture",
        f"  - {moved} is held out now",
        f"  - {gone} is gone",
        "  - 02 twin\u2028.png is new",
    ]


def test_a_list_that_nobody_can_read_names_nothing(data, tmp_path):
    assert kept_examples.changes_since(tmp_path, data()) == ""
    for damaged in (b"\xff", b"{", b"3\n", b"[1, 2]\n"):
        (tmp_path / kept_examples.EXAMPLES_FILE).write_bytes(damaged)
        assert kept_examples.changes_since(tmp_path, data()) == ""


def test_of_very_many_no_list_is_kept(data, tmp_path, monkeypatch):
    kept_examples.write(tmp_path, data())
    monkeypatch.setattr(kept_examples, "MOST", 5)
    kept_examples.write(tmp_path, data())
    assert not (tmp_path / kept_examples.EXAMPLES_FILE).exists()
