"""Shards: few files for many entries, found again by anybody, whole at every moment."""

import gc
import pickle
import warnings

import pytest
import torch

from pipeline.data import shards
from pipeline.data.shards import Shards
from pipeline.errors import DataError

pytestmark = pytest.mark.unit


def entry(number):
    return {"mean": torch.full((2, 3), float(number)), "mask": torch.arange(number + 1)}


def kept(folder, numbers):
    made = Shards(folder)
    for number in numbers:
        made.put(f"key{number}", entry(number))
    return made


def same(found, number):
    return found.keys() == entry(number).keys() and all(torch.equal(found[name], entry(number)[name]) for name in found)


def test_a_hundred_thousand_entries_lie_in_few_files(tmp_path):
    made = kept(tmp_path, range(1100))
    assert len(list(tmp_path.iterdir())) == 2  # the rest waits
    assert all(same(made.load(f"key{number}"), number) for number in (0, 511, 512, 1099))
    made.flush()
    made.flush()
    files = [path.name for path in tmp_path.iterdir()]
    assert len(files) == 3
    again = Shards(tmp_path)
    again.look()
    assert all(f"key{number}" in again for number in range(1100))
    assert all(same(again.load(f"key{number}"), number) for number in range(0, 1100, 7))
    assert 100_000 / shards.MAX_ENTRIES < 200


def test_what_others_wrote_is_found(tmp_path):
    reader = Shards(tmp_path)
    reader.look()
    assert "key5" not in reader
    kept(tmp_path, [5]).flush()
    assert same(reader.load("key5"), 5)
    copy = pickle.loads(pickle.dumps(reader))
    assert same(copy.load("key5"), 5)
    with pytest.raises(KeyError):
        reader.load("key6")


def test_two_that_keep_the_same_write_the_same(tmp_path):
    kept(tmp_path, [1, 2, 3]).flush()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept(tmp_path, [3, 1, 2]).flush()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    kept(tmp_path, [2, 9]).flush()
    found = Shards(tmp_path)
    found.look()
    assert all(same(found.load(f"key{number}"), number) for number in (1, 2, 3, 9))


def test_a_shard_is_written_when_it_is_full_or_has_waited_long(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MAX_BYTES", 100)
    kept(tmp_path / "large", range(6))  # 24 bytes and up each
    assert 1 <= len(list((tmp_path / "large").iterdir())) <= 4
    monkeypatch.setattr(shards, "MAX_SECONDS", -1.0)
    kept(tmp_path / "slow", range(3))
    assert len(list((tmp_path / "slow").iterdir())) == 3


def test_more_shards_than_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MAX_ENTRIES", 1)
    monkeypatch.setattr(shards, "MAX_OPEN", 2)
    made = kept(tmp_path, range(8))
    assert all(same(made.load(f"key{number}"), number) for number in (*range(8), *range(8)))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")  # of each file that is left open
        del made
        gc.collect()
    assert not warned


def test_a_killed_writer_leaves_nothing_half_and_a_damaged_file_is_named(tmp_path, monkeypatch):
    made = kept(tmp_path, range(3))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shards.atomic.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            made.flush()
    assert list(tmp_path.iterdir()) == []
    made.flush()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (whole[:20], whole[:-5], (4).to_bytes(8, "little") + b"null", b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=f"{path.name} is damaged: remove it"):
            Shards(tmp_path).look()
    path.write_bytes(whole)
    reader = Shards(tmp_path)
    reader.look()
    path.write_bytes(whole[:-20])
    with pytest.raises(DataError, match=f"{path.name} is damaged: remove it"):
        [reader.load(f"key{number}") for number in range(3)]


@pytest.mark.parametrize("kind", shards.TYPES.values())
def test_every_kind_of_tensor_comes_back_as_it_was(tmp_path, kind):
    made = Shards(tmp_path)
    entry = {"row": torch.tensor([[0, 1, 1]]).to(kind), "number": torch.tensor(1).to(kind), "none": torch.zeros(0, 3)}
    made.put("key", entry)
    made.flush()
    found = made.load("key")
    assert found.keys() == entry.keys()
    assert all(found[name].dtype == entry[name].dtype and torch.equal(found[name], entry[name]) for name in entry)
