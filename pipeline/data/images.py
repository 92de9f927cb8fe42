"""From an image file to a picture: decoding that distorts nothing. Imports no torch."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps

from pipeline.geometry import Size


@dataclass(frozen=True)
class View:
    """How a picture is resized and cut: to which size, from where, and whether it is mirrored."""

    size: Size
    interpolation: str
    left: float = 0.5  # share of the spare width left of the cut, 0.5 = centred
    top: float = 0.5
    flip: bool = False

    @property
    def key(self) -> str:
        """The view in words that stay the same, for cache keys."""
        return f"{self.size} {self.interpolation} {self.left!r} {self.top!r} {self.flip}"


def decode(file: Path | io.BytesIO, alpha_background: str) -> Image.Image:
    """The picture as people see it: RGB, upright, transparency on `alpha_background`, 16 bits scaled to 8.

    Of an animation the first frame. Raises OSError (or another error of Pillow) where the file
    cannot be decoded to its last byte.
    """
    with Image.open(file) as opened:
        opened.load()
        picture = ImageOps.exif_transpose(opened)
    if picture.mode.startswith("I"):  # 16-bit grey, which convert("RGB") would clip at 255
        values = np.asarray(picture).astype(np.float64) / 65535.0 * 255.0
        return Image.fromarray(np.clip(values.round(), 0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        with_alpha = picture.convert("RGBA")
        background = Image.new("RGBA", with_alpha.size, ImageColor.getrgb(alpha_background))
        return Image.alpha_composite(background, with_alpha).convert("RGB")
    return picture.convert("RGB")
