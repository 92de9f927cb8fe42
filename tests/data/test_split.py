"""Which images are held out."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline import shipped
from pipeline.data import near
from pipeline.data.manifest import Example, Manifest
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.data.rows import FileSource
from pipeline.data.split import split
from pipeline.errors import ConfigError
from pipeline.geometry import Size
from tests.audit.flaws import picture

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


def test_near_copies_go_the_same_way(tmp_path):
    """Each picture once more, smaller and compressed: by chance half of the pairs would be torn apart."""
    data = tmp_path / "data"
    data.mkdir()
    for number in range(40):
        whole = picture(number).convert("RGB")
        whole.save(data / f"{number:02d}.png")
        whole.resize((whole.width * 3 // 4, whole.height * 3 // 4)).save(data / f"{number:02d}-copy.jpg", quality=70)
    manifest = read_manifest(data, DataOptions(instance_prompt="a thing", cache_dir=str(tmp_path / "cache")))
    for share in (0.1, 0.3, 0.5):
        train, held = split(manifest, share)
        sides = [{example.name[:2] for example in part.examples} for part in (train, held)]
        assert not sides[0] & sides[1]
        assert abs(len(held.examples) - share * 80) <= 1
    alike = dataclasses.replace(manifest, examples=tuple(
        dataclasses.replace(example, sketch=manifest.examples[0].sketch) for example in manifest.examples
    ))  # fmt: skip
    train, held = split(alike, 0.1)
    assert len(held.examples) == 8  # all the same to this eye: then as if nothing were, and it is said
    assert train.notes[-1] == "80 of 80 images are nearly the same, so near copies of what is trained on are held out"


def in_groups(tmp_path, sizes) -> Manifest:
    """So many images in each group of near copies, by a picture of their own."""
    sketches = [near.sketch_of(picture(number).convert("RGB")) for number in range(len(sizes))]
    of = [number for number, size in enumerate(sizes) for _ in range(size)]
    plain = manifest_of(tmp_path, len(of))
    examples = [
        dataclasses.replace(e, sketch=sketches[n], name=f"{n}") for n, e in zip(of, plain.examples, strict=True)
    ]
    return dataclasses.replace(plain, examples=tuple(examples))


@pytest.mark.parametrize(
    ("sizes", "share", "held_out", "said"),
    [
        ([16, 16, 16], 0.1, 16, "16 of 48 images are held out, not 5: near copies stay together"),
        ([3] * 15, 0.1, 6, "6 of 45 images are held out, not 4: near copies stay together"),
        ([3] * 20, 0.1, 6, ""),
        ([60] * 16, 0.1, 60, "60 of 960 images are held out, not 96: near copies stay together"),
        ([30, 20], 0.1, 20, "20 of 50 images are held out, not 5: near copies stay together"),
        ([30, 5, 5], 0.1, 5, "5 of 40 images are held out, not 4: near copies stay together"),
        ([1, 1, 1, 1, 4], 0.5, 4, ""),
    ],
)
def test_groups_of_near_copies_are_held_out_whole_and_no_more_than_must_be(tmp_path, sizes, share, held_out, said):
    train, held = split(in_groups(tmp_path, sizes), share)
    assert not {e.name for e in train.examples} & {e.name for e in held.examples}
    assert len(held.examples) == held_out
    assert train.notes == ((said,) if said else ())


def test_pictures_that_only_share_their_ground_are_not_near(tmp_path):
    """Small things in one place on one colour, as in the starter dataset: equal hashes, but other colours there."""
    pictures = [Image.open(path) for path in sorted(shipped.TRAIN.glob("*.png"))]
    sketches = np.stack([np.frombuffer(near.sketch_of(picture).encode(), dtype=np.uint8) for picture in pictures])
    assert near.groups(sketches).tolist() == list(range(len(pictures)))


def test_of_very_many_equal_hashes_the_nearest_are_compared(monkeypatch):
    monkeypatch.setattr(near, "MOST_WITH_A_KEY", 3)
    compared = set()

    def are_near(one, other):
        compared.update(zip(one.tolist(), other.tolist(), strict=True))
        return np.zeros(len(one), dtype=bool)

    hashes = np.zeros(50, dtype=np.uint64)
    assert not list(near.matches(hashes, hashes, are_near))
    assert compared == {(place, place - back) for place in range(50) for back in (1, 2, 3) if back <= place}


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
