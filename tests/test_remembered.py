"""What is known of files: it holds as long as they stay, and one process at a time finds it out."""

import os
import threading
import time

import pytest

from pipeline import remembered as module
from pipeline.hashing import digest_of_file
from pipeline.remembered import cache_folder, only_one, remembered, settled, signature_of

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _files_are_old_at_once(monkeypatch):
    monkeypatch.setattr(module, "FRESH_NS", 0)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"abc")
    return path


def counted(cache, path, monkeypatch, kind="hashes", whole=False):
    """The hash of a file as it is remembered, and how many files were read for it."""
    read = []
    monkeypatch.setattr(module, "digest_of_file", lambda path: read.append(path) or digest_of_file(path))
    with remembered(cache, "place", kind, whole=whole) as known:
        return known.digest_of(path), len(read)


def test_a_file_is_read_once_until_it_changes(tmp_path, file, monkeypatch):
    first = digest_of_file(file)
    assert counted(tmp_path, file, monkeypatch) == (first, 1)
    assert counted(tmp_path, file, monkeypatch) == (first, 0)
    assert counted(tmp_path, file, monkeypatch, kind="other facts") == (first, 1)
    times = file.stat()
    file.write_bytes(b"xyz")  # of the same size, and given the times of the other
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert counted(tmp_path, file, monkeypatch) == (digest_of_file(file), 1)
    twin = file.with_name("twin")
    twin.write_bytes(b"abc")
    os.utime(twin, ns=(times.st_atime_ns, times.st_mtime_ns))
    twin.replace(file)
    assert counted(tmp_path, file, monkeypatch) == (first, 1)


def test_what_has_just_changed_may_change_again(tmp_path, file, monkeypatch):
    monkeypatch.setattr(module, "FRESH_NS", 10**12)
    assert [counted(tmp_path, file, monkeypatch)[1] for _ in range(2)] == [1, 1]
    assert settled(signature_of(file), file) is None
    monkeypatch.setattr(module, "FRESH_NS", 0)
    before = signature_of(file)
    assert settled(before, file) == before
    file.write_bytes(b"longer")
    assert settled(before, file) is None  # changed while it was read
    assert signature_of(tmp_path / "nothing") is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"kind": "hashes", "facts": {"x": 3}}', '{"kind": "hashes"}'])
def test_damaged_facts_are_none(tmp_path, file, monkeypatch, damage):
    counted(tmp_path, file, monkeypatch)
    (facts,) = (tmp_path / module.FOLDER).glob("*.json")
    facts.write_text(damage)
    assert counted(tmp_path, file, monkeypatch)[1] == 1
    assert counted(tmp_path, file, monkeypatch)[1] == 0


def test_where_nothing_can_be_kept_everything_is_found_out_anew(file, monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert [counted(tmp_path / "cache", file, monkeypatch)[1] for _ in range(2)] == [1, 1]


def test_facts_outlive_an_error_and_end_with_their_files(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_text(path.name)
    with pytest.raises(KeyError):
        look_at(paths, tmp_path)
    assert counted(tmp_path, paths[0], monkeypatch)[1] == 0
    assert counted(tmp_path, paths[0], monkeypatch, whole=True)[1] == 0  # nobody asks for the other one any more
    assert counted(tmp_path, paths[1], monkeypatch)[1] == 1


def look_at(paths, cache):
    with remembered(cache, "place", "hashes", whole=True) as known:
        for path in paths:
            known.digest_of(path)
        raise KeyError


def test_one_finds_out_while_the_other_waits(tmp_path, file, capsys):
    inside, found = threading.Event(), []

    def first():
        with remembered(tmp_path, "place", "hashes", whole=False) as known:
            inside.set()
            time.sleep(0.2)
            known.digest_of(file)

    def second():
        inside.wait()
        with remembered(tmp_path, "place", "hashes", whole=False) as known:
            found.append(known.recall(str(file), signature_of(file)))

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [digest_of_file(file)]
    assert "Waiting for another process that looks at place" in capsys.readouterr().err


def test_without_locks_nobody_waits(tmp_path):
    (tmp_path / "file").write_text("")
    with only_one(tmp_path / "file" / "lock", "waiting"), only_one(tmp_path / "file" / "lock", "waiting"):
        pass


def test_the_cache_lies_where_the_system_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / "t2i-lora"
    assert cache_folder("x").parts == ("x", "encoded")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / ".cache" / "t2i-lora"
