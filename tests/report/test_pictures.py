"""Pictures within a page."""

import base64
import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pipeline.evaluation import png_metadata
from pipeline.report.pictures import MAX_SIDE, embedded

pytestmark = pytest.mark.unit


def noise(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


def within(path, kind: str = "png") -> bytes:
    head, _, content = embedded(path).partition(",")
    assert head == f"data:image/{kind};base64"
    return base64.b64decode(content)


@pytest.mark.parametrize("save", [Image.Image.save, png_metadata.save_marked], ids=["copied", "drawn"])
def test_a_small_picture_of_ours_is_there_as_it_lies(save, tmp_path):
    save(noise(32), tmp_path / "x.png")
    assert within(tmp_path / "x.png") == (tmp_path / "x.png").read_bytes()


def test_what_somebody_noted_in_a_picture_is_not_on_the_page(tmp_path):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Author", "a secret")
    noise(32).save(tmp_path / "x.png", pnginfo=notes)
    noise(32).save(tmp_path / "x.jpg", comment="a secret")
    exif = Image.Exif()
    exif[0x010E] = "a secret"
    noise(32).save(tmp_path / "y.png", exif=exif)
    noise(MAX_SIDE + 88).save(tmp_path / "large.png", pnginfo=notes, exif=exif)
    noise(MAX_SIDE + 88).save(tmp_path / "large.jpg", comment="a secret", exif=exif)
    for name in ("large.png", "large.jpg"):
        assert b"a secret" in (tmp_path / name).read_bytes()
        assert b"a secret" not in within(tmp_path / name, "webp")
    for name in ("x.png", "x.jpg", "y.png"):
        assert b"a secret" in (tmp_path / name).read_bytes()
        content = within(tmp_path / name)
        assert b"a secret" not in content
        assert np.array_equal(Image.open(io.BytesIO(content)), Image.open(tmp_path / name))


def test_a_large_picture_is_shrunk(tmp_path):
    """To a picture that is no more than a tenth in bytes, and looks the same."""
    smooth = noise(8).resize((MAX_SIDE + 88, MAX_SIDE + 88), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "x.png")
    content = within(tmp_path / "x.png", "webp")
    assert len(content) < (tmp_path / "x.png").stat().st_size / 10
    shown = Image.open(io.BytesIO(content))
    smooth.thumbnail((MAX_SIDE, MAX_SIDE))
    assert shown.size == smooth.size == (MAX_SIDE, MAX_SIDE)
    assert np.abs(np.asarray(shown).astype(int) - np.asarray(smooth)).mean() < 2
