"""What a folder held is kept whole, and read anew as soon as anything in it is another."""

import os
import shutil
import time

import pytest

from pipeline import atomic
from pipeline.data import listing, sources
from pipeline.data.options import DataOptions
from pipeline.data.sources import read_sources
from tests.audit.flaws import picture, write_rows
from tests.conftest import make_shapes

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Captions beside pictures, masks, repeats by name, a link, something that is left out; all of it long ago."""
    monkeypatch.setattr(listing, "MIN_EXAMPLES", 1)
    data = tmp_path / "data"
    make_shapes(data / "2_shapes", 6)
    (data / "3_cats").mkdir()
    picture(1).save(data / "3_cats" / "a.png")
    picture(2).convert("L").save(data / "3_cats" / "a.mask.png")
    shutil.copy(data / "2_shapes" / "00.png", data / "3_cats" / "copy.png")
    (data / "3_cats" / "copy.txt").write_text("a picture with number 0")
    (data / "3_cats" / "notes.pdf").write_text("left out")
    (tmp_path / "elsewhere").mkdir()
    picture(3).save(tmp_path / "elsewhere" / "b.png")
    (data / "4_linked").symlink_to(tmp_path / "elsewhere")
    return data


@pytest.fixture(autouse=True)
def later(monkeypatch):
    """A clock that is ahead by more than what counts as fresh."""
    now = time.time_ns
    monkeypatch.setattr(listing.time, "time_ns", lambda: now() + 2 * listing.FRESH_NS)


def options_of(folder, **more):
    more = {"masked_loss": True, "instance_prompt": "a thing", **more}
    return DataOptions(train_data_dir=str(folder), cache_dir=str(folder.parent / "cache"), **more)


@pytest.fixture
def reads(monkeypatch):
    """How often a folder was really read."""
    found, real = [], sources.gather_sources
    monkeypatch.setattr(sources, "gather_sources", lambda *given: found.append(1) or real(*given))
    return found


def test_what_is_kept_is_what_was_read(folder, reads):
    first = read_sources(options_of(folder))
    again = read_sources(options_of(folder))
    assert len(reads) == 1
    assert again == first
    assert [note.kind for note in again.notes if hasattr(note, "kind")] == [
        n.kind for n in first.notes if hasattr(n, "kind")
    ]
    assert any(example.mask is not None for example in again.examples)
    assert len(again.duplicates) == 1
    assert again.fingerprint == first.fingerprint
    assert all(example.source.content() for example in again.examples)


CHANGES = {
    "a caption": lambda data: (data / "2_shapes" / "03.txt").write_text("another caption"),
    "a caption of the same length, its time put back": lambda data: same_length(data / "2_shapes" / "03.txt"),
    "a picture": lambda data: picture(9).save(data / "2_shapes" / "03.png"),
    "a new picture": lambda data: picture(9).save(data / "2_shapes" / "new.png"),
    "a picture less": lambda data: (data / "2_shapes" / "03.png").unlink(),
    "another name": lambda data: (data / "3_cats").rename(data / "5_cats"),
    "behind a link": lambda data: picture(8).save(data.parent / "elsewhere" / "c.png"),
    "an empty folder": lambda data: (data / "new").mkdir(),
    "a mask": lambda data: (data / "3_cats" / "a.mask.png").unlink(),
}


def same_length(path):
    text, before = path.read_text(), path.stat()
    path.write_text(text[:-1] + "9")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", CHANGES)
def test_any_change_is_seen(folder, reads, name):
    before = read_sources(options_of(folder))
    CHANGES[name](folder)
    after = read_sources(options_of(folder))
    assert len(reads) == 2
    assert (after == before) == (name in ("an empty folder",))


def test_other_options_a_damaged_file_and_a_fresh_folder_are_read(folder, reads, monkeypatch):
    whole = read_sources(options_of(folder))
    assert read_sources(options_of(folder, caption_prefix="ohwx")) != whole
    assert len(reads) == 2
    for path in (folder.parent / "cache" / "encoded" / "known").glob("*.arrow"):
        atomic.write_bytes(path, path.read_bytes()[:100])  # as all is written: `whole` still has the file it opened
    assert read_sources(options_of(folder)) == whole
    assert len(reads) == 3
    monkeypatch.undo()
    monkeypatch.setattr(listing, "MIN_EXAMPLES", 1)
    (folder / "2_shapes" / "03.txt").write_text("a picture with number 3")
    read_sources(options_of(folder))
    assert listing.signature_of(folder) is None  # what has just changed may change again unseen


def test_problems_are_never_kept(folder, reads):
    (folder / "2_shapes" / "03.png").write_bytes(b"no picture")
    for _ in range(2):
        with pytest.raises(Exception, match=r"03\.png"):
            read_sources(options_of(folder))
    assert len(reads) == 2


def test_a_table_and_few_pictures_are_not_kept(folder, tmp_path, reads, monkeypatch):
    monkeypatch.setattr(listing, "MIN_EXAMPLES", 1000)
    read_sources(options_of(folder))
    assert not list((tmp_path / "cache" / "encoded" / "known").glob("*.arrow"))
    (tmp_path / "listed").mkdir()
    picture(0).save(tmp_path / "listed" / "a.png")
    write_rows(tmp_path / "listed", [{"file_name": "a.png", "text": "x", "kind": 7}])
    monkeypatch.setattr(listing, "MIN_EXAMPLES", 1)
    found = [read_sources(options_of(tmp_path / "listed", balance="kind")) for _ in range(2)]
    assert found[0] == found[1]
    assert found[1].examples[0].group == "7"
