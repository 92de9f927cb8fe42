"""What a plan counts without making an example is what a run then shows."""

import itertools

import numpy as np
import pytest

from pipeline.data.buckets import Bucket, fields_shown, shown
from pipeline.data.entries import Entries
from pipeline.data.manifest import Example, Manifest
from pipeline.data.options import DataOptions
from pipeline.data.rows import FileSource
from pipeline.data.views import captions_to_keep, distinct_views, num_views
from pipeline.geometry import Size

pytestmark = pytest.mark.unit
SIZE = Size(64, 48)
ORIGINALS = (Size(64, 48), Size(128, 96), Size(100, 48), Size(64, 64))


def manifest_of(options: DataOptions) -> Manifest:
    """Twelve pictures, of which half have exactly the shape they are shown in."""
    return Manifest("data", tuple(
        Example(f"{n:032x}", f"image {n}", f"{n}.png", FileSource(f"{n}.png"), (f"a, b, c {n}", "d, e"), size, options)
        for n, size in enumerate(ORIGINALS * 3)
    ))  # fmt: skip


CHANCES = [
    dict(zip(("center_crop", "random_flip", "random_rotation", "color_jitter"), values, strict=True))
    for values in itertools.product((True, False), (True, False), (0.0, 5.0), (0.0, 0.1))
]


@pytest.mark.parametrize("chances", CHANCES, ids=str)
def test_views_are_counted_as_they_are_shown(chances):
    manifest = manifest_of(DataOptions(**chances))
    each = [len(distinct_views(example, seed=3, size=SIZE)) for example in manifest.examples]
    assert num_views(manifest, seed=3, size=SIZE) == sum(each)
    if chances == {"center_crop": True, "random_flip": True, "random_rotation": 0.0, "color_jitter": 0.0}:
        assert len(set(each)) > 1  # of some, all four draws fall alike


def test_fields_come_in_the_order_of_the_examples_that_are_shown():
    examples = manifest_of(DataOptions()).examples
    buckets = (Bucket(SIZE, Entries.of(np.array([3, 0, 7]))), Bucket(Size(8, 8), Entries.of(np.array([1, 3]), turn=1)))
    expected = [(example.name, example.size, size) for example, size in shown(examples, buckets)]
    assert list(fields_shown(examples, buckets, "name", "size")) == expected
    assert [name for name, *_ in expected] == ["3.png", "0.png", "7.png", "1.png", "3.png"]


def test_captions_of_sources_with_and_without_tags_are_kept_together():
    plain, tags = (manifest_of(DataOptions(shuffle_tags=shuffled)).examples[:2] for shuffled in (False, True))
    kept = captions_to_keep((*plain, *tags), 50, seed=0)
    assert kept[:3] == ["a, b, c 0", "d, e", "a, b, c 1"]
    assert {"b, a, c 0", "e, d"} & set(kept)
    assert len(kept) == len(set(kept)) > 4
