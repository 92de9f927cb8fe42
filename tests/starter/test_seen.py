"""The reader of the starter world: what it says a picture shows."""

import numpy as np
import pytest
from PIL import Image

from pipeline.starter import judge, seen, world

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(not world.FONT.exists(), reason="needs fonts-noto-color-emoji"),
]


@pytest.fixture(scope="module")
def read():
    """Held-out scenes, and what is read in their renders."""
    scenes = world.held_out_scenes(51, 150)
    return scenes, seen.scenes(judge.load(), [scene.image() for scene in scenes])


@pytest.mark.parametrize(
    ("field", "least"), [("count", 0.95), ("size", 0.95), ("colour", 0.99), ("place", 0.93), ("concept", 0.9)]
)
def test_it_reads_renders(read, field, least):
    pairs = [(getattr(true, field), getattr(found, field)) for true, found in zip(*read, strict=True)]
    assert sum(true == found for true, found in pairs) / len(pairs) >= least


def test_place_and_colour_are_read_off_the_pixels_alone():
    """Of any scene whose count and size are known, shifted by a pixel and under any colour."""
    chance = np.random.default_rng(7)
    scenes = [world.draw_scene(chance) for _ in range(120)]
    wrong = [scene for scene in scenes if seen.place_of(scene.image(), (scene.count, scene.size)) != scene.place]
    assert len(wrong) <= 3
    assert all(seen.background(scene.image()) == scene.colour for scene in scenes)


def test_it_says_what_a_caption_of_that_scene_says(read):
    scenes, found = read
    reader = seen.extractor(judge.load())
    right = [place for place, (true, other) in enumerate(zip(scenes, found, strict=True)) if _plain(true) == other]
    assert len(right) > 100
    pictures = [scenes[place].image() for place in right[:5]]
    assert reader.read(pictures) == [scenes[place].caption() for place in right[:5]]
    assert len(reader.read([Image.new("RGB", (64, 64), "white")])) == 1


def _plain(scene: world.Scene) -> world.Scene:
    return world.Scene(scene.concept, scene.count, scene.size, scene.place, scene.colour)
