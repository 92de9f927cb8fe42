"""Which images are held out."""

import dataclasses
import shutil

import pytest

from pipeline.data.manifest import Example, Manifest
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.data.rows import FileSource
from pipeline.data.split import split
from pipeline.errors import ConfigError
from pipeline.geometry import Size

pytestmark = pytest.mark.unit


def manifest_of(tmp_path, num_images: int, captions: int = 1) -> Manifest:
    examples = [
        Example(
            f"{image:03d}-{caption}",
            f"image {image}",
            f"{image}.png",
            FileSource(str(tmp_path / f"{image}.png")),
            (f"caption {caption}",),
            Size(64, 64),
            DataOptions(),
        )
        for image in range(num_images)
        for caption in range(captions)
    ]
    return Manifest(str(tmp_path), tuple(examples))


@pytest.mark.parametrize(
    ("num_images", "share", "held_out"),
    [(39, None, 0), (40, None, 4), (120, None, 12), (1000, None, 100), (120, 0.0, 0), (10, 0.1, 4), (10, 0.5, 5)],
)
def test_how_many(tmp_path, num_images, share, held_out):
    train, held = split(manifest_of(tmp_path, num_images), share)
    assert len(train.examples) == num_images - held_out
    assert (len(held.examples) if held else 0) == held_out
    if held:
        assert not {e.image_id for e in train.examples} & {e.image_id for e in held.examples}


def test_a_share_that_leaves_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="leaves none"):
        split(manifest_of(tmp_path, 4), 0.1)


def test_all_captions_of_an_image_go_the_same_way(tmp_path):
    train, held = split(manifest_of(tmp_path, 50, captions=3), None)
    assert len(held.examples) == 15
    assert not {e.image_id for e in train.examples} & {e.image_id for e in held.examples}


def test_the_choice_is_by_content(colours, tmp_path):
    """Renamed, moved and in another order: the same images. One image more: at most one of them changes."""
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for number, path in enumerate(sorted(colours.glob("*.png"), reverse=True)):
        shutil.copy(path, moved / f"{number}.png")
        (moved / f"{number}.txt").write_text("a square")
    ids = [
        {e.image_id for e in split(read_manifest(folder, DataOptions()), 0.5)[1].examples}
        for folder in (colours, moved)
    ]
    assert ids[0] == ids[1]
    whole = manifest_of(tmp_path, 100)
    fewer = dataclasses.replace(whole, examples=whole.examples[1:])
    before, after = ({e.image_id for e in split(each, 0.1)[1].examples} for each in (whole, fewer))
    assert len(before - after) <= 1
