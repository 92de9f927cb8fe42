"""What the numbers in a file mean: ranges, and colour profiles."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.data.images import decode, examine
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.errors import DataError

pytestmark = pytest.mark.unit
RAMP = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)


def seen(path):
    return np.asarray(decode(path, "white")).astype(int)


def test_floats_from_0_to_1_are_scaled(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "x.tiff")
    assert np.abs(seen(tmp_path / "x.tiff")[..., 1] - RAMP * 255).max() <= 0.5


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (RAMP * 255, "floats, from 0 to 255; only 0 to 1"),
        (RAMP - 0.5, "from -0.5 to 0.5"),
        (np.where(RAMP > 0.5, np.nan, RAMP), "not all of them numbers"),
        (np.where(RAMP > 0.5, np.inf, RAMP), "not all of them numbers"),
        ((RAMP * 1e9).astype(np.int32), "integers of 32 bits, from 0 to 1e+09; only 0 to 65535"),
    ],
    ids=["255", "negative", "nan", "infinite", "32 bits"],
)
def test_values_of_unknown_range_are_refused(tmp_path, values, said):
    Image.fromarray(values.astype(np.int32 if values.dtype == np.int32 else np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(DataError, match=r"x\.tiff: cannot be used") as error:
        read_manifest(tmp_path, DataOptions(instance_prompt="x"))
    assert said in str(error.value)


def profile_of(space: bytes, pcs: bytes, **tags: bytes) -> bytes:
    """The smallest ICC profile with these tags (ICC.1:2010, sections 7.2 and 7.3)."""
    white = b"XYZ " + bytes(4) + b"".join(round(value * 65536).to_bytes(4, "big") for value in (0.9642, 1.0, 0.8249))
    tags = {"wtpt": white, **tags}
    table, data, start = len(tags).to_bytes(4, "big"), b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name.encode() + (start + len(data)).to_bytes(4, "big") + len(value).to_bytes(4, "big")
        data += value
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    header = bytearray(128)
    header[0:4] = (start + len(data)).to_bytes(4, "big")
    header[8:24], header[36:40], header[68:80] = b"\x02\x40\0\0" + kind + space + pcs, b"acsp", white[8:]
    return bytes(header) + table + data


def xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + b"".join((round(value * 65536) % 2**32).to_bytes(4, "big") for value in values)


STRAIGHT = b"curv" + bytes(8)  # a curve of no points is a straight line
LINEAR = profile_of(
    b"RGB ", b"XYZ ", rTRC=STRAIGHT, gTRC=STRAIGHT, bTRC=STRAIGHT,
    rXYZ=xyz(0.4361, 0.2225, 0.0139), gXYZ=xyz(0.3851, 0.7169, 0.0971), bXYZ=xyz(0.1431, 0.0606, 0.7141),
)  # fmt: skip
LINEAR_GREY = profile_of(b"GRAY", b"XYZ ", kTRC=STRAIGHT)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def inks() -> bytes:
    """A profile of a press on which any ink looks like black."""
    even = bytes(range(256))
    paper = b"".join(bytes([255 if corner == 0 else 0, 128, 128]) for corner in range(16))  # Lab of each corner
    matrix = b"".join(value.to_bytes(4, "big") for value in (65536, 0, 0, 0, 65536, 0, 0, 0, 65536))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + even * 4 + paper + even * 3
    return profile_of(b"CMYK", b"Lab ", A2B0=lut, A2B1=lut)


def with_profile(path, picture, profile):
    picture.save(path, icc_profile=profile)
    return path


def test_a_profile_other_than_srgb_is_converted(tmp_path):
    picture = Image.new("RGB", (8, 8), (55, 55, 55))  # a linear 0.216 is 128 in sRGB
    found = seen(with_profile(tmp_path / "x.png", picture, LINEAR))
    assert np.abs(found - 128).max() <= 1
    translucent = Image.new("RGBA", (8, 8), (55, 55, 55, 0))
    translucent.paste((55, 55, 55, 255), (0, 0, 4, 8))
    found = seen(with_profile(tmp_path / "y.png", translucent, LINEAR))
    assert np.abs(found[:, :4] - 128).max() <= 1
    assert (found[:, 4:] == 255).all()
    grey = seen(with_profile(tmp_path / "z.tif", Image.new("L", (8, 8), 55), LINEAR))
    assert np.abs(grey - 128).max() <= 1
    palette = seen(with_profile(tmp_path / "p.png", picture.quantize(4), LINEAR))
    assert np.abs(palette - 128).max() <= 1


def test_profiles_of_grey_and_of_inks(tmp_path):
    found = seen(with_profile(tmp_path / "x.png", Image.new("L", (8, 8), 55), LINEAR_GREY))
    assert np.abs(found - 128).max() <= 1
    translucent = Image.merge("LA", [Image.new("L", (8, 8), 55), Image.new("L", (8, 8), 255)])
    assert np.abs(seen(with_profile(tmp_path / "y.png", translucent, LINEAR_GREY)) - 128).max() <= 1
    deep = Image.fromarray(np.full((8, 8), 55 * 257, dtype=np.uint16))
    assert np.abs(seen(with_profile(tmp_path / "z.png", deep, LINEAR_GREY)) - 128).max() <= 1
    cyan = with_profile(tmp_path / "c.tif", Image.new("CMYK", (8, 8), (255, 0, 0, 0)), inks())
    assert seen(cyan).max() < 20
    paper = with_profile(tmp_path / "p.tif", Image.new("CMYK", (8, 8)), inks())
    assert seen(paper).min() > 250


def test_pixels_of_an_srgb_profile_stay_as_they_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (seen(with_profile(tmp_path / "x.png", Image.fromarray(pixels), SRGB)) == pixels).all()


# Ids of their own: a profile holds the second it was made in, and two test workers would collect different tests.
@pytest.mark.parametrize(
    ("profile", "said"), [(b"no profile", "cannot be read"), (SRGB, "is for RGB")], ids=["no profile", "of RGB"]
)
def test_a_profile_of_no_use_is_ignored_and_noted(tmp_path, profile, said):
    mode = "RGB" if said == "cannot be read" else "CMYK"
    with_profile(tmp_path / "x.jpg", Image.new(mode, (8, 8)), profile)
    found = read_manifest(tmp_path, DataOptions(instance_prompt="x")).notes
    (note,) = [note for note in found if "profile" in note]
    assert note.endswith(": x.jpg")
    assert said in note
    assert (seen(tmp_path / "x.jpg") == np.asarray(Image.open(tmp_path / "x.jpg").convert("RGB"))).all()


def test_a_picture_without_a_profile_has_nothing_to_say(tmp_path):
    Image.new("CMYK", (8, 8), (10, 20, 30, 40)).save(tmp_path / "x.tif")
    picture, remark = examine(tmp_path / "x.tif", "white")
    assert remark is None
    assert picture.getpixel((0, 0)) == Image.new("CMYK", (1, 1), (10, 20, 30, 40)).convert("RGB").getpixel((0, 0))
