"""WebDataset: tar files in which what belongs together is called alike, read by `datasets`' own builder."""

import io
import json
import tarfile

import pytest
from PIL import Image

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


def test_what_the_builder_does_not_take_is_said(tmp_path):
    write(tmp_path / "mixed.tar", [*example(0), *example(1, "jpg")])
    with pytest.raises(DataError, match=r"mixed\.tar cannot be read \(The TAR archives .* same types"):
        read(tmp_path / "mixed.tar", tmp_path)


def test_in_a_folder_of_images_it_is_pointed_at(shards):
    with pytest.raises(DataError, match=r"00000\.tar is not opened; unpack it, or give a WebDataset as --dataset_name"):
        read_manifest(shards, DataOptions())
