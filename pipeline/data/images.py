"""From an image file to a picture: decoding that distorts nothing. Imports no torch."""

import contextlib
import functools
import io
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, ImageColor, ImageOps, UnidentifiedImageError

from pipeline.data import colours
from pipeline.data.rows import FileSource, Source
from pipeline.errors import reason
from pipeline.geometry import Size

# Pillow only recognises these, or leaves them to another program to draw.
NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"})
SIGNED = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "AVIF", "HEIF", "PPM", "QOI")  # by first bytes
HEIF = (".heic", ".heif", ".hif")
PNG = b"\x89PNG\r\n\x1a\n"
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
TEXTS_OF_USE = (b"XML:com.adobe.xmp", b"Raw profile type exif")  # they may say how the picture is turned
_PILLOW = threading.Lock()


PLAIN = (1.0, 1.0, 1.0)  # colours as they are


@dataclass(frozen=True)
class View:
    """How a picture is resized and cut: to which size, from where, whether it is mirrored, turned, or coloured."""

    size: Size
    interpolation: str
    left: float = 0.5  # share of the spare width left of the cut, 0.5 = centred
    top: float = 0.5
    flip: bool = False
    angle: float = 0.0  # degrees, counter-clockwise
    colours: tuple[float, float, float] = PLAIN  # factors of brightness, contrast and saturation

    @property
    def key(self) -> str:
        """The view in words that stay the same, for cache keys."""
        more = f" {self.angle!r} {self.colours!r}" if self.angle or self.colours != PLAIN else ""
        return f"{self.size} {self.interpolation} {self.left!r} {self.top!r} {self.flip}{more}"


@dataclass(frozen=True)
class Stored:
    """How a picture lies in its file."""

    mode: str  # Pillow's
    frames: int
    turned: bool  # lying, and said to be so
    has_profile: bool
    has_alpha: bool
    hidden: bool  # transparent all over


@functools.cache
def formats() -> tuple[str, ...]:
    """The formats that are decoded: all that this Pillow reads by itself, and phones' HEIC where pillow-heif is."""
    Image.preinit()
    Image.init()
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in Image.ID if name not in NOT_DECODED)


@functools.cache
def extensions() -> frozenset[str]:
    """The extensions of files in these formats, in small letters."""
    decoded = {*formats(), "MPO"}  # which is read as a JPEG with more pictures after it
    return frozenset(extension for extension, name in Image.EXTENSION.items() if name in decoded)


def remedy(extension: str) -> str:
    """What to do about a picture in a format that is not decoded."""
    is_heif = extension.lower() in HEIF and "HEIF" not in formats()
    return 'pip install "t2i-lora[heif]", or convert it to PNG' if is_heif else "convert it to PNG"


def is_image(path: Path) -> bool:
    """Whether the first bytes of a file are those of an image, whatever it is called."""
    known = [name for name in SIGNED if name in formats()]
    try:
        with _pixel_limit(None), Image.open(path, formats=known):
            return True
    except (OSError, ValueError, SyntaxError):
        return False


def decode(file: Path | io.BytesIO, alpha_background: str) -> Image.Image:
    """The picture as people see it: RGB, upright, transparency on `alpha_background`, 8 bits of sRGB.

    Of an animation the first frame. Raises OSError (or another error of Pillow) where the file cannot be decoded
    to its last byte, ValueError where nothing says what its values mean.
    """
    return examine(file, alpha_background)[0]


def examine(
    file: Path | io.BytesIO, alpha_background: str, max_megapixels: int | None = None
) -> tuple[Image.Image, str | None]:
    """The picture, and what has to be said about its colours. Raises as `decode`, and ValueError above the limit."""
    content = without_texts(file.read_bytes() if isinstance(file, Path) else file.getvalue())
    with _opened(content, max_megapixels) as opened:
        return _shown(opened, alpha_background)


def described(content: bytes, alpha_background: str) -> tuple[Image.Image, Stored]:
    """The picture, and how it is stored. Raises as `decode`."""
    with _opened(without_texts(content), None) as opened:
        is_turned = opened.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
        frames = 1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)  # a phone's JPEG with a preview in it
        has_alpha = opened.has_transparency_data
        is_hidden = has_alpha and not opened.convert("RGBA").getchannel("A").getextrema()[1]
        has_profile = bool(opened.info.get("icc_profile"))
        stored = Stored(opened.mode, frames, is_turned, has_profile, has_alpha, bool(is_hidden))
        return _shown(opened, alpha_background)[0], stored


def _shown(opened: Image.Image, alpha_background: str) -> tuple[Image.Image, str | None]:
    """An open image as people see it, and what has to be said about its colours."""
    picture = ImageOps.exif_transpose(opened)
    if picture.mode.startswith(("I", "F")):  # which convert("RGB") would clip at 255
        picture = colours.in_8_bits(picture)
    picture, remark = colours.to_srgb(picture)
    if picture.has_transparency_data:
        with_alpha = picture.convert("RGBA")
        background = Image.new("RGBA", with_alpha.size, ImageColor.getrgb(alpha_background))
        picture = Image.alpha_composite(background, with_alpha)
    return picture.convert("RGB"), remark


def mask(content: bytes, max_megapixels: int | None = None) -> Image.Image:
    """A mask as people see it, mode L, transparency black. Raises as `examine`."""
    return examine(io.BytesIO(content), "black", max_megapixels)[0].convert("L")


def alpha_of(content: bytes) -> Image.Image | None:
    """The transparency of an upright picture, mode L, 255 where it is opaque; None where it has none."""
    with _opened(without_texts(content), None) as opened:
        picture = ImageOps.exif_transpose(opened)
    return picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None


def has_alpha(source: Source) -> bool:
    """Whether a picture can be transparent somewhere: of a file by its header, without the rest of it."""
    with contextlib.suppress(OSError, ValueError, SyntaxError):  # large texts in front of a PNG's pixels, for one
        if isinstance(source, FileSource):
            with _pixel_limit(None), Image.open(source.path, formats=formats()) as opened:
                return bool(opened.has_transparency_data)
    content = without_texts(source.content())
    with _pixel_limit(None), Image.open(io.BytesIO(content), formats=formats()) as opened:
        return bool(opened.has_transparency_data)


def reason_of(error: Exception) -> str:
    """Why an image cannot be used, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "cannot be decoded: it is not an image"
    if isinstance(error, FileNotFoundError):
        return f"there is no file {error.filename}"
    if type(error) is ValueError:
        return f"cannot be used: {reason(error)}"
    return f"cannot be decoded ({type(error).__name__}: {reason(error)})"


def without_texts(content: bytes) -> bytes:
    """A PNG without its texts, in which programs keep whole workflows: Pillow takes large ones for an attack."""
    if not content.startswith(PNG):
        return content
    kept, place = [PNG], len(PNG)
    while place + 8 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")  # length, kind, data, checksum
        kind = content[place + 4 : place + 8]
        if kind not in TEXT_CHUNKS or content[place + 8 : place + 88].split(b"\0")[0] in TEXTS_OF_USE:
            kept.append(content[place:end])
        place = end
    return b"".join([*kept, content[place:]])


@contextlib.contextmanager
def _opened(content: bytes, max_megapixels: int | None) -> Iterator[Image.Image]:
    """An image decoded to its last byte. Raises ValueError if it has more pixels than allowed."""
    limit = None if max_megapixels is None else max_megapixels * 1_000_000
    with _pixel_limit(None):
        opened = Image.open(io.BytesIO(content), formats=formats())
    with opened:
        width, height = opened.size
        rule = f"more than --max_image_megapixels {max_megapixels}; raise it, or make the image smaller"
        if limit is not None and width * height > limit:
            raise ValueError(f"{width} x {height} pixels are {width * height / 1e6:.1f} megapixels, {rule}")
        try:
            with _pixel_limit(limit):  # files of some formats hold pictures larger than they say
                opened.load()
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ValueError(f"it holds {rule}") from error
        yield opened


@contextlib.contextmanager
def _pixel_limit(limit: int | None) -> Iterator[None]:
    """Another limit than Pillow's own, which is global, for a while."""
    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = limit
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
