"""What a folder held is kept whole, and read anew as soon as anything in it is another."""

import dataclasses
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest

from pipeline import atomic
from pipeline.data import listing, mapped, sources
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
    (data / "6_again").symlink_to(data / "3_cats")  # read already, so left out
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
    "where a link leads": lambda data: moved_behind(data / "6_again"),
    "a mask": lambda data: (data / "3_cats" / "a.mask.png").unlink(),
}


def moved_behind(link):
    """Rename the folder that a link leads to, and lead it there again."""
    folder = link.resolve()
    folder.rename(folder.with_name("3_dogs"))
    link.unlink()
    link.symlink_to(folder.with_name("3_dogs"))


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


def listings(folder):
    return sorted((folder.parent / "cache" / "encoded" / "known").glob("*.arrow"))


def test_a_name_that_is_no_text_is_kept(folder, reads):
    odd = os.path.join(os.fsencode(folder), b"2_shapes", b"caf\xe9")
    shutil.copy(os.fsencode(folder / "2_shapes" / "00.png"), odd + b".png")
    Path(os.fsdecode(odd + b".txt")).write_text("a café")
    found = [read_sources(options_of(folder)) for _ in range(2)]
    assert len(reads) == 1
    assert found[0] == found[1]
    assert any(example.source.place == os.fsdecode(odd + b".png") for example in found[1].examples)


def test_what_lies_above_a_folder_is_not_looked_at_through_a_link(folder):
    (folder / "5_above").symlink_to(folder.parent)
    before = listing.signature_of(folder)
    (folder.parent / "beside.txt").write_text("no part of it")
    assert listing.signature_of(folder) == before is not None


@pytest.mark.parametrize("error", [OSError("full"), ValueError("half a character")])
def test_what_cannot_be_kept_is_read_anew(folder, reads, monkeypatch, error):
    def write(*given):
        raise error

    monkeypatch.setattr(mapped, "write", write)
    assert read_sources(options_of(folder)) == read_sources(options_of(folder))
    assert len(reads) == 2


def test_one_caption_changed_in_the_file_is_seen(folder, reads):
    whole = read_sources(options_of(folder))
    (path,) = listings(folder)
    content = path.read_bytes()
    other = content.replace(b"a picture with number 3", b"a picture with number 4")
    assert other != content
    atomic.write_bytes(path, other)
    assert read_sources(options_of(folder)) == whole
    assert len(reads) == 2


class Asked(DataOptions):
    """Options that note which of them are looked at."""

    names: frozenset[str] = frozenset()

    def __getattribute__(self, name):
        if name in listing.UNREAD:
            Asked.names |= {name}
        return super().__getattribute__(name)


def test_reading_looks_at_no_option_that_a_listing_does_not_depend_on(folder, tmp_path):
    assert {field.name for field in dataclasses.fields(DataOptions)} >= listing.UNREAD
    (tmp_path / "listed").mkdir()
    picture(0).save(tmp_path / "listed" / "a.png")
    picture(1).save(tmp_path / "listed" / "a.mask.png")
    write_rows(tmp_path / "listed", [{"file_name": "a.png", "text": ["x, y", "z"], "kind": 7}])
    tags = {
        "shuffle_tags": True,
        "tag_dropout": 0.1,
        "keep_tokens": 1,
        "caption_prefix": "ohwx",
        "trigger_word": "ohwx",
    }
    more = [{"repeats": 2}, {"balance": "kind", "caption_weights": "2,1"}, {"caption_template": "a {kind}"}]
    for place, chosen in [(folder, {}), (folder, tags), *((tmp_path / "listed", given) for given in (tags, *more))]:
        prompt = "a thing" if "caption_template" not in chosen else None
        options = options_of(place, **{"instance_prompt": prompt, **chosen})
        assert sources.gather_sources(Asked(**vars(options)), sources.Findings())[1]
    assert Asked.names == {"cache_dir"}


def test_other_sizes_have_no_listing_of_their_own_and_only_the_last_few_are_kept(folder, reads):
    read_sources(options_of(folder))
    other = {"resolution": 64, "caption_dropout": 0.5, "max_train_samples": 3, "validation_split": 0.0, "upscale": True}
    assert read_sources(options_of(folder, **other)).examples[0].options.resolution == 64
    assert (len(reads), len(listings(folder))) == (1, 1)
    for number in range(listing.KEPT + 2):
        read_sources(options_of(folder, caption_prefix=f"{number}"))
    assert len(listings(folder)) == listing.KEPT
    read_sources(options_of(folder, caption_prefix=f"{listing.KEPT + 1}"))
    assert len(reads) == 1 + listing.KEPT + 2


def _read_slowly(options, both, results):
    real_read, real_write, written = sources.gather_sources, mapped.write, []

    def read(*given):
        found = real_read(*given)
        time.sleep(0.3)  # so that the other one has begun before anything is kept
        return found

    sources.gather_sources, mapped.write = read, lambda *given: written.append(1) or real_write(*given)
    both.wait()
    table = read_sources(options).examples.file
    both.wait()
    results.put((len(written), mapped._identity(table.path) == table.identity))


def test_of_two_that_start_together_one_reads_and_keeps(folder):
    context = multiprocessing.get_context("fork")
    both, results = context.Barrier(2), context.Queue()
    two = [context.Process(target=_read_slowly, args=(options_of(folder), both, results)) for _ in range(2)]
    for one in two:
        one.start()
    assert sorted(results.get(timeout=30) for _ in two) == [(0, True), (1, True)]
    for one in two:
        one.join()
