import warnings

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from pipeline.data.images import View, decode
from pipeline.data.options import DataOptions
from pipeline.data.pixels import geometry_of, to_picture, to_pixels
from pipeline.data.reading import read_manifest
from pipeline.errors import DataError
from pipeline.geometry import Size

pytestmark = pytest.mark.unit


def upright() -> Image.Image:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:20, :30] = (255, 0, 0)
    pixels[20:, 30:] = (0, 0, 255)
    return Image.fromarray(pixels)


TRANSPOSED = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
              7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip


def turned(orientation: int) -> tuple[Image.Image, Image.Exif]:
    """The upright picture as a camera stores it that was held otherwise, and the tag that says how."""
    picture, exif = upright(), Image.Exif()
    if orientation > 1:
        picture = picture.transpose(Image.Transpose[TRANSPOSED[orientation]])
    exif[0x0112] = orientation
    return picture, exif


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(tmp_path, orientation):
    picture, exif = turned(orientation)
    picture.save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(np.asarray(decode(tmp_path / "x.png", "white")), np.asarray(upright()))


def test_colours_hidden_under_transparency_do_not_show(tmp_path):
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[..., 1] = 255  # green that nobody sees
    pixels[:4, :, 3] = 128
    Image.fromarray(pixels).save(tmp_path / "x.png")
    seen = np.asarray(decode(tmp_path / "x.png", "white"))
    assert (seen[4:] == 255).all()
    assert np.abs(seen[:4].astype(int) - [127, 255, 127]).max() <= 1
    assert (np.asarray(decode(tmp_path / "x.png", "#102030"))[4:] == [0x10, 0x20, 0x30]).all()


def test_palette_transparency_is_laid_on_the_background(tmp_path):
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((0, 0), 1)
    picture.save(tmp_path / "x.png", transparency=0)
    seen = np.asarray(decode(tmp_path / "x.png", "white"))
    assert tuple(seen[0, 0]) == (0, 0, 255)
    assert tuple(seen[1, 1]) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    seen = np.asarray(decode(tmp_path / "x.png", "white"))[..., 0]
    assert np.abs(seen.astype(float) - ramp / 257).max() <= 0.51


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "RGB"])
def test_other_modes_become_rgb(tmp_path, mode):
    picture = upright().convert(mode)
    name = "x.tif" if mode == "CMYK" else "x.png"
    picture.save(tmp_path / name)
    seen = decode(tmp_path / name, "white")
    assert seen.mode == "RGB"
    assert np.array_equal(np.asarray(seen), np.asarray(picture.convert("RGB")))


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert tuple(np.asarray(decode(tmp_path / "x.gif", "white"))[0, 0]) == (255, 0, 0)


def test_a_picture_of_the_right_size_passes_pixel_exact():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.array_equal(
        np.asarray(to_picture(to_pixels(Image.fromarray(pixels), View(Size.square(64), "lanczos")))), pixels
    )


def test_crop_and_flip_are_where_the_view_says():
    pixels = np.tile(np.arange(80, dtype=np.uint8)[None, :, None], (64, 1, 3))
    picture = Image.fromarray(pixels)
    left = to_pixels(picture, View(Size.square(64), "lanczos", left=0.0))
    right = to_pixels(picture, View(Size.square(64), "lanczos", left=1.0))
    mirrored = to_pixels(picture, View(Size.square(64), "lanczos", left=1.0, flip=True))
    assert ((left[0, 0, 0] + 1) * 127.5).round() == 0
    assert ((right[0, 0, 0] + 1) * 127.5).round() == 16
    assert (mirrored == right.flip(-1)).all()


@pytest.mark.parametrize("flip", [False, True])
def test_the_geometry_is_where_the_seen_picture_was_cut(flip):
    """P48: original height and width, then top and left as the mirrored picture shows them."""
    columns = np.arange(100, dtype=np.uint8)[None, :, None].repeat(80, 0).repeat(3, 2)
    picture = Image.fromarray(columns)
    view = View(Size.square(64), "nearest", left=0.25, top=0.5, flip=flip)
    found = geometry_of(Size(100, 80), view)
    assert (found.original, found.size) == (Size(100, 80), Size(64, 64))
    seen = to_pixels(picture, view)[0, 0] / 2 * 255 + 127.5
    resized = picture.resize((80, 64), Image.Resampling.NEAREST)
    whole = np.asarray(resized)[0, :, 0]
    shown = whole[::-1] if flip else whole
    assert np.array_equal(seen.round().numpy(), shown[found.left : found.left + 64])
    assert found.left == (12 if flip else 4)
    assert found.top == 0


@pytest.mark.parametrize("angle", [-7.5, 0.1, 3.0, 45.0])
@pytest.mark.parametrize("shape", [(64, 64), (90, 64), (400, 300), (700, 100)])
@pytest.mark.parametrize("size", [(48, 64), (192, 48), (40, 160)])
def test_a_turned_view_has_no_empty_corner_and_is_turned_about_its_centre(angle, shape, size):
    white = Image.new("RGB", shape, "white")
    view = View(Size(*size), "lanczos", left=0.3, top=1.0, angle=angle)
    assert to_pixels(white, view).min() == 1.0
    found = geometry_of(Size(*shape), view)
    pixels = np.zeros((300, 400), dtype=np.uint8)
    pixels[:, ::2] = 255
    there = to_pixels(Image.fromarray(pixels).convert("RGB"), View(Size.square(64), "lanczos", angle=angle))
    assert there.shape == (3, 64, 64)
    assert min(found.left, found.top) >= 0


@pytest.mark.parametrize(("angle", "left", "top"), [(20.0, 0.0, 1.0), (-30.0, 0.8, 0.3), (0.0, 0.5, 0.0)])
def test_the_centre_of_a_turned_view_is_where_its_geometry_says(angle, left, top):
    """In two pictures whose brightness is the column, and the row."""
    ramp = np.arange(200, dtype=np.uint8)
    view = View(Size.square(64), "nearest", left=left, top=top, angle=angle)
    found = geometry_of(Size(200, 200), view)
    turned = np.radians(abs(angle))
    around = 64 * (np.cos(turned) + np.sin(turned))  # the side of the upright square that holds the turned one
    resized = 64 + 2 * (np.ceil((around - 64) / 2) + 1) if angle else 64
    for pixels, corner in ((np.tile(ramp, (200, 1)), found.left), (np.tile(ramp[:, None], (1, 200)), found.top)):
        shown = to_pixels(Image.fromarray(pixels).convert("RGB"), view)[0]
        middle = (shown[31:33, 31:33].mean() + 1) * 127.5
        assert middle.item() * resized / 200 == pytest.approx(corner + 32, abs=1.5)


def test_a_line_is_turned_by_the_angle_counter_clockwise():
    picture = Image.new("L", (200, 200))
    picture.paste(255, (0, 98, 200, 102))
    shown = to_pixels(picture.convert("RGB"), View(Size.square(128), "lanczos", angle=10.0))[0] > 0
    rows, columns = torch.nonzero(shown, as_tuple=True)
    middle = [rows[columns == column].double().mean() for column in (8, 119)]
    assert ((middle[0] - middle[1]) / 111).item() == pytest.approx(np.tan(np.radians(10)), abs=0.01)


def test_colours_are_changed_by_their_factors_alone():
    picture = Image.fromarray(np.random.default_rng(0).integers(60, 120, (64, 64, 3), dtype=np.uint8))
    plain = to_picture(to_pixels(picture, View(Size.square(64), "lanczos")))
    brighter = to_picture(to_pixels(picture, View(Size.square(64), "lanczos", colours=(1.5, 1.0, 1.0))))
    grey = to_picture(to_pixels(picture, View(Size.square(64), "lanczos", colours=(1.0, 1.0, 0.0))))
    assert np.abs(np.asarray(brighter) - np.asarray(plain) * 1.5).max() <= 1
    assert np.array_equal(np.asarray(grey), np.asarray(plain.convert("L").convert("RGB")))
    plainly = View(Size.square(64), "lanczos")
    assert plainly.key == "64 x 64 lanczos 0.5 0.5 False"  # what caches made before these knew
    assert len({plainly.key, View(Size.square(64), "lanczos", angle=1.0).key}) == 2


def test_a_png_may_hold_texts_of_any_size(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("workflow", "x" * 2_000_000, zip=True)
    texts.add_text("prompt", "y" * 2_000_000, zip=True)
    upright().save(tmp_path / "x.png", pnginfo=texts)
    assert np.array_equal(np.asarray(decode(tmp_path / "x.png", "white")), np.asarray(upright()))


def test_a_text_may_say_how_a_png_is_turned(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>')
    upright().transpose(Image.Transpose.ROTATE_90).save(tmp_path / "x.png", pnginfo=texts)
    assert np.array_equal(np.asarray(decode(tmp_path / "x.png", "white")), np.asarray(upright()))


def test_the_limit_of_pixels_is_said_in_megapixels_and_pillows_own_stays(tmp_path):
    Image.new("L", (1100, 1000)).save(tmp_path / "x.png")
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with pytest.raises(DataError, match=r"1100 x 1000 pixels are 1.1 megapixels, more than --max_image_megapixels 1;"):
        read_manifest(tmp_path, DataOptions(instance_prompt="x", max_image_megapixels=1))
    assert len(read_manifest(tmp_path, DataOptions(instance_prompt="x", max_image_megapixels=2)).examples) == 1
    assert before == (Image.MAX_IMAGE_PIXELS, list(warnings.filters))


def test_an_image_larger_than_pillows_limit_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    upright().save(tmp_path / "x.png")
    assert len(read_manifest(tmp_path, DataOptions(instance_prompt="x")).examples) == 1
    assert Image.MAX_IMAGE_PIXELS == 100
