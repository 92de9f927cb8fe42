"""What the page says of the data follows from its numbers, and only where it says something."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pipeline.data import images
from pipeline.data.buckets import together
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.evaluation.picture_sets import kept
from pipeline.geometry import Size
from pipeline.report.dataset import FOLDER, MAX_SHOWN, MAX_SIDE, TILES, Shown, keep_examples, words
from pipeline.training.result import DataFacts, Sides

pytestmark = pytest.mark.unit
FACTS = DataFacts(
    examples=90,
    held_out=10,
    captions=90,
    distinct_captions=90,
    words=7.5,
    side=Sides(512, 700, 900),
    skipped=0,
    copies=0,
)


def said(pixels: int, **changed: object) -> list[str]:
    return words(replace(FACTS, **changed), Size.square(pixels))


def test_a_sound_dataset_gets_two_sentences():
    found = said(512)
    assert len(found) == 2
    assert "512 to 900 pixels (median 700); the model sees 512" in found[0]
    assert "90 captions, 90 of them different, 7.5 words" in found[1]


@pytest.mark.parametrize(("seen", "kept_at"), [((640, 320), (MAX_SIDE, MAX_SIDE // 2)), ((64, 48), (64, 48))])
def test_what_is_shown_is_no_larger_than_a_tile(colours, tmp_path, seen, kept_at):
    manifest = read_manifest(colours, DataOptions())
    keep_examples(Shown(manifest, manifest, together(len(manifest.examples), Size(*seen))), tmp_path, tmp_path)
    rows = kept(tmp_path / FOLDER)
    assert len(rows) == min(len(manifest.examples), MAX_SHOWN)
    assert {Image.open(row["path"]).size for row in rows} == {kept_at}


def test_a_second_run_decodes_no_picture_for_the_page(colours, tmp_path, monkeypatch, capsys):
    manifest = read_manifest(colours, DataOptions())
    shown = Shown(manifest, manifest, together(len(manifest.examples), Size(48, 64)))

    def files(folder: str) -> list[bytes]:
        keep_examples(shown, tmp_path / folder, tmp_path / "cache")
        return [Path(row["path"]).read_bytes() for row in kept(tmp_path / folder / FOLDER)]

    first = files("first")
    with monkeypatch.context() as patched:
        patched.setattr(images, "decode", None)
        assert files("second") == first
        other = replace(shown, buckets=together(len(manifest.examples), Size(64, 48)))
        with pytest.raises(TypeError, match="NoneType"):
            keep_examples(other, tmp_path / "third", tmp_path / "cache")
    (shard,) = (tmp_path / "cache" / TILES).rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-7])
    assert files("fourth") == first
    assert f"made anew: {shard}" in capsys.readouterr().err
    assert files("fifth") == first
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").touch()  # so nothing can be kept there
    assert files("sixth") == first
    assert "made anew" not in capsys.readouterr().err


def test_what_stands_out_is_said():
    equal = Sides(64, 64, 64)
    assert "is 64 pixels; the model sees 64" in said(64, side=equal)[0]
    assert said(128, side=equal, enlarged=3)[-1].startswith("3 are too small for this and are enlarged")
    assert "Of what an epoch shows, dogs 80%, cats 20%." in said(64, sources={"dogs": 72, "cats": 18})
    assert "Beside them 30 pictures of the class, shown as often as they are." in said(64, class_images=30)
    assert "The loss is weighed by kind: 9 a x 1." in said(64, balance="by kind: 9 a x 1")
    several = said(64, sizes={"48 x 80": 60, "64 x 64": 30}, cropped=0.1)[0]
    assert "the model sees 60 at 48 x 80, 30 at 64 x 64, for which 10% of all pixels are cut off." in several
    assert "the model sees 48 x 80." in said(64, sizes={"48 x 80": 90})[0]
    assert "captions are alike" in said(512, distinct_captions=2)[-1]
    assert "3 were left out" in said(512, skipped=3)[-1]
    assert "2 exist more than once" in said(512, copies=2)[-1]
