"""WebDataset: tar files in which what belongs together is called alike, read by `datasets`' own builder."""

import io
import json
import tarfile

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from pipeline.data import webdataset
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.data.sources import read_sources
from pipeline.errors import DataError
from tests.audit.flaws import picture

pytestmark = pytest.mark.unit
WHITE_LEFT = Image.new("L", (16, 16))
WHITE_LEFT.paste(255, (0, 0, 8, 16))


def stored(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write(path, entries):
    with tarfile.open(path, "w") as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def example(number: int, kind: str = "png") -> list[tuple[str, bytes]]:
    saved = stored(picture(number).convert("RGB"), "JPEG" if kind == "jpg" else kind)
    described = {"caption": f"long {number}", "kind": ["cat", "dog"][number % 2]}
    return [
        (f"a/{number:03d}.{kind}", saved),
        (f"a/{number:03d}.txt", f"short {number}".encode()),
        (f"a/{number:03d}.json", json.dumps(described).encode()),
    ]


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(2):
        entries = [pair for number in range(3) for pair in example(3 * shard + number)]
        write(folder / f"{shard:05d}.tar", entries)
    return folder


def read(place, tmp_path, **more):
    return read_sources(DataOptions(dataset_name=str(place), cache_dir=str(tmp_path / "cache"), **more))


def captions(found):
    return {example.name: example.caption for example in found.examples}


def test_a_folder_of_shards_and_one_shard_are_read_as_what_is_in_them(shards, tmp_path):
    found = read(shards, tmp_path)
    assert captions(found) == {f"a/{number:03d}": f"short {number}" for number in range(6)}
    assert captions(read(shards / "00001.tar", tmp_path)) == {
        f"a/{number:03d}": f"short {number}" for number in (3, 4, 5)
    }
    unpacked = tmp_path / "unpacked"
    for shard in sorted(shards.iterdir()):
        with tarfile.open(shard) as archive:
            archive.extractall(unpacked, filter="data")
    for path in (unpacked / "a").glob("*.json"):
        path.unlink()
    assert read_manifest(unpacked, DataOptions()).fingerprint == found.fingerprint


def test_what_its_json_holds_are_columns(shards, tmp_path):
    assert captions(read(shards, tmp_path, caption_column="caption"))["a/002"] == "long 2"
    assert captions(read(shards, tmp_path, caption_template="a {kind}: {text}"))["a/003"] == "a dog: short 3"
    with pytest.raises(DataError, match=r"no 'title' \(there is caption, kind, text\)"):
        read(shards, tmp_path, caption_column="title")


def test_masks_beside_images(tmp_path):
    mask = stored(WHITE_LEFT, "PNG")
    entries = [pair for number in range(6) for pair in (*example(number), (f"a/{number:03d}.mask.png", mask))]
    write(tmp_path / "masked.tar", entries)
    found = read(tmp_path / "masked.tar", tmp_path, masked_loss=True)
    assert {example.mask.content() for example in found.examples} == {mask}
    assert len(found.examples) == 6
    assert all(example.mask is None for example in read(tmp_path / "masked.tar", tmp_path).examples)


def test_a_bad_image_and_a_missing_caption_are_named(tmp_path):
    entries = [pair for number in range(8) for pair in example(number)]
    entries[3 * 6] = (entries[3 * 6][0], b"no picture")
    entries[3 * 7 + 1] = (entries[3 * 7 + 1][0], b"")
    write(tmp_path / "bad.tar", entries)
    with pytest.raises(DataError) as error:
        read(tmp_path / "bad.tar", tmp_path)
    assert "a/006: " in str(error.value)
    assert "a/007: no caption" in str(error.value)


def test_kinds_of_images_may_differ_early_or_late(tmp_path):
    early, late = [*example(0), *example(1, "jpg")], [pair for number in range(2, 9) for pair in example(number)]
    write(tmp_path / "early.tar", early)
    assert captions(read(tmp_path / "early.tar", tmp_path)) == {"a/000": "short 0", "a/001": "short 1"}
    folder = tmp_path / "late"
    folder.mkdir()
    write(folder / "0.tar", late)
    write(folder / "1.tar", early)
    found = read(folder, tmp_path, caption_template="{kind}: {text}, {caption}")
    assert captions(found) == {
        f"a/{number:03d}": f"{['cat', 'dog'][number % 2]}: short {number}, long {number}" for number in range(9)
    }
    pictures = {example.name: Image.open(io.BytesIO(example.source.content())).format for example in found.examples}
    assert pictures == {f"a/{number:03d}": "JPEG" if number == 1 else "PNG" for number in range(9)}


def test_what_an_early_example_lacks_is_named_as_elsewhere(tmp_path):
    entries = [pair for number in range(3) for pair in example(number)]
    text, described = entries[1], entries[8]
    write(tmp_path / "lacks.tar", [pair for pair in entries if pair not in (text, described)])
    with pytest.raises(DataError, match="a/000: no caption"):
        read(tmp_path / "lacks.tar", tmp_path)
    assert set(captions(read(tmp_path / "lacks.tar", tmp_path, missing_caption="skip"))) == {"a/001", "a/002"}
    with pytest.raises(DataError, match="a/002: no caption"):
        read(tmp_path / "lacks.tar", tmp_path, caption_column="caption")
    write(tmp_path / "strange.tar", [entries[0], *entries[3:5], ("a/001.json", b'{"caption": [1]}'), *entries[6:]])
    with pytest.raises(DataError, match=r"strange\.tar cannot be read \(the \.json files of its examples do not fit"):
        read(tmp_path / "strange.tar", tmp_path)


def test_which_kinds_there_are_is_found_out_once(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.remembered.FRESH_NS", 0)
    write(tmp_path / "mixed.tar", [*example(0), *example(1, "jpg")])
    first = captions(read(tmp_path / "mixed.tar", tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(webdataset, "_kinds", None)
        assert captions(read(tmp_path / "mixed.tar", tmp_path)) == first
    write(tmp_path / "mixed.tar", [*example(2), *example(3, "webp")])
    assert captions(read(tmp_path / "mixed.tar", tmp_path)) == {"a/002": "short 2", "a/003": "short 3"}


def test_what_img2dataset_writes_beside_its_shards_is_no_dataset(shards, tmp_path):
    plain = captions(read(shards, tmp_path))
    for shard in list(shards.glob("*.tar")):
        table = pyarrow.table({"url": ["a"], "key": ["000"], "caption": ["x"]})
        pyarrow.parquet.write_table(table, shard.with_suffix(".parquet"))
        shard.with_name(f"{shard.stem}_stats.json").write_text('{"count": 1}', encoding="utf-8")
    assert captions(read(shards, tmp_path)) == plain
    pyarrow.parquet.write_table(table, shards / "another.parquet")
    with pytest.raises(DataError, match="no column of images"):
        read(shards, tmp_path)


def test_a_folder_without_a_split_to_train_on(shards, tmp_path):
    shards.rename(tmp_path / "test")
    (tmp_path / "set").mkdir()
    (tmp_path / "test").rename(tmp_path / "set" / "test")
    with pytest.raises(DataError, match=r"has no train split \(there is test\)"):
        read(tmp_path / "set", tmp_path)
    (tmp_path / "set" / "test" / "00000.tar").rename(tmp_path / "set" / "00000-train.tar")
    (tmp_path / "set" / "test" / "00001.tar").rename(tmp_path / "set" / "00001-test.tar")
    assert set(captions(read(tmp_path / "set", tmp_path))) == {"a/000", "a/001", "a/002"}


def test_in_a_folder_of_images_it_is_pointed_at(shards):
    with pytest.raises(DataError, match=r"00000\.tar is not opened; unpack it, or give a WebDataset as --dataset_name"):
        read_manifest(shards, DataOptions())
