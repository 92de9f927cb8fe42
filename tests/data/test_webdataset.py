"""WebDataset: tar files in which what belongs together is called alike, read by `datasets`' own builder."""

import gzip
import io
import json
import tarfile

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from pipeline.data import images, webdataset
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


def test_every_problem_is_named_with_its_shard_and_key(shards, tmp_path):
    entries = [pair for number in range(6, 12) for pair in example(number)]
    entries[2] = ("a/006.json", b'{"caption": ')
    entries[4] = ("a/007.txt", "caf\u00e9".encode("latin-1"))
    entries[6] = ("a/008.png", b"no picture")
    entries[8] = ("a/008.json", b"[1]")
    entries += [("a/012.txt", b"of no picture"), ("a/011.png", entries[0][1]), ("a/013.cls", b"x")]
    write(shards / "00002.tar", entries)
    with pytest.raises(DataError) as error:
        read(shards, tmp_path)
    for said in (
        "00002.tar: a/006: its .json is damaged (Expecting value: line 1 column 13 (char 12))",
        "00002.tar: a/007: .txt: byte 3 (0xe9) is not UTF-8; save the file as UTF-8",
        "00002.tar: a/008: cannot be decoded",
        "00002.tar: a/008: its .json holds no object of names and values",
        "00002.tar: a/011.png is in it twice",
    ):
        assert said in str(error.value)
    write(shards / "00002.tar", [*entries[:2], *entries[3:4], entries[5], *entries[9:12], entries[18]])
    found = read(shards, tmp_path, missing_caption="skip")
    assert set(captions(found)) == {f"a/{number:03d}" for number in (*range(7), 9)}
    assert any("no image goes with" in note and "00002.tar: a/012" in note for note in found.notes)


def test_files_of_an_example_may_lie_apart(tmp_path):
    entries = sorted((pair for number in range(4) for pair in example(number)), key=lambda pair: pair[0][-3:])
    write(tmp_path / "apart.tar", entries)
    assert captions(read(tmp_path / "apart.tar", tmp_path)) == {f"a/{n:03d}": f"short {n}" for n in range(4)}


@pytest.mark.parametrize("cut", [700, -300, -11_000])
def test_a_torn_shard_is_not_taken_for_a_short_one(shards, tmp_path, cut):
    """Within the first file, within the last one, within the head of the last one."""
    path = shards / "00001.tar"
    content = path.read_bytes()
    with tarfile.open(path) as archive:
        end = archive.getmembers()[-1].offset_data + 512
    cuts = {700: 700, -300: end - 300, -11_000: end - 900}
    path.write_bytes(content[: cuts[cut]])
    with pytest.raises(DataError, match=r"00001\.tar (ends in the middle or is damaged, after |is no tar file)"):
        read(shards, tmp_path)
    path.write_bytes(content[: end - 1024] + b"\xff" * 512 + content[end - 512 :])
    with pytest.raises(DataError, match=r"00001\.tar ends in the middle or is damaged, after a/005\.txt"):
        read(shards, tmp_path)
    path.write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(DataError, match=r"00001\.tar is no tar file"):
        read(shards, tmp_path)


def test_a_tar_file_without_its_mark_at_the_end_is_read_and_a_compressed_one_is_named(shards, tmp_path):
    path = shards / "00001.tar"
    content = path.read_bytes()
    with tarfile.open(path) as archive:
        end = archive.getmembers()[-1].offset_data + 512
    path.write_bytes(content[:end])  # as a program leaves it that streams
    found = read(shards, tmp_path)
    assert len(found.examples) == 6
    assert any("perhaps cut off: 00001.tar after a/005.json" in note for note in found.notes)
    path.write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=r"00001\.tar is no tar file \(it is compressed, unpack it with gunzip\)"):
        read(shards, tmp_path)


def test_the_picture_of_an_example_does_not_depend_on_the_order_of_its_files(tmp_path):
    one, other = example(0)[:2], [("a/001.canny.png", stored(picture(5).convert("RGB"), "PNG")), *example(1)[:2]]
    one.append(("a/000.canny.png", other[0][1]))
    write(tmp_path / "maps.tar", [*one, *other])
    found = {e.name: e.source.content() for e in read(tmp_path / "maps.tar", tmp_path).examples}
    assert found == {"a/000": one[0][1], "a/001": other[1][1]}


def test_keys_of_any_json_are_columns_of_all(tmp_path):
    pictures = [example(number)[0] for number in range(2)]
    described = [("a/000.json", b'{"extra": 1}'), ("a/001.json", b'{"caption": "b"}')]
    write(tmp_path / "keys.tar", [pictures[0], described[0], pictures[1], described[1]])
    found = read(tmp_path / "keys.tar", tmp_path, caption_column="caption", missing_caption="skip")
    assert captions(found) == {"a/001": "b"}


def test_a_readme_that_says_which_files_are_which_is_obeyed(tmp_path):
    folder = tmp_path / "set"
    for number, name in enumerate(("cats", "dogs")):
        (folder / name).mkdir(parents=True)
        write(folder / name / "0.tar", example(number))
    front = "configs:\n" + "".join(f"- config_name: {n}\n  data_files: {n}/*.tar\n" for n in ("cats", "dogs"))
    (folder / "README.md").write_text(f"---\n{front}---\n", encoding="utf-8")
    assert captions(read(folder, tmp_path, dataset_config_name="dogs")) == {"a/001": "short 1"}


def test_tar_files_beside_pictures_or_hidden_are_no_dataset(tmp_path):
    for name in ("k0", "k1"):
        (tmp_path / "set" / name).mkdir(parents=True)
        picture(0).convert("RGB").save(tmp_path / "set" / name / "a.png")
    write(tmp_path / "set" / "backup.tar", example(3))
    assert webdataset.shards_of(tmp_path / "set", DataOptions(), (".tar", ".csv")) == []
    (tmp_path / "hidden" / ".cache").mkdir(parents=True)
    write(tmp_path / "hidden" / ".cache" / "x.tar", example(3))
    assert webdataset.shards_of(tmp_path / "hidden", DataOptions(), (".tar", ".csv")) == []


def test_heic_in_a_shard_is_a_bad_image_without_its_package(tmp_path, monkeypatch):
    plain = images.extensions()
    monkeypatch.setattr(webdataset, "extensions", lambda: plain - set(images.HEIF))
    monkeypatch.setattr(images, "formats", lambda: ("PNG", "JPEG"))
    write(tmp_path / "phone.tar", [*example(0), ("a/001.heic", b"x"), ("a/001.txt", b"a dog")])
    with pytest.raises(DataError, match=r"a/001: \.heic is not read; pip install \"t2i-lora\[heif\]\""):
        read(tmp_path / "phone.tar", tmp_path)
    assert set(captions(read(tmp_path / "phone.tar", tmp_path, on_bad_image="skip"))) == {"a/000"}


def test_a_shard_without_images_says_what_is_in_it(tmp_path):
    write(tmp_path / "texts.tar", [pair for pair in example(0) if not pair[0].endswith("png")])
    with pytest.raises(DataError, match=r"there is no image in it \(there is \.json, \.txt\)"):
        read(tmp_path / "texts.tar", tmp_path)
    write(tmp_path / "named.tar", example(0))
    with pytest.raises(DataError, match=r"there is no image called \.jpg; see --image_column"):
        read(tmp_path / "named.tar", tmp_path, image_column="jpg")


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
