"""From an image file to model input: decoding that distorts nothing, then resize, crop and flip."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageColor, ImageOps
from torch import Tensor

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
UNREAD_EXTENSIONS = frozenset({".heic", ".heif", ".avif", ".jxl", ".svg", ".psd", ".raw", ".dng"})
INTERPOLATION = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


@dataclass(frozen=True)
class View:
    """How one picture is cut: where the square lies and whether it is mirrored."""

    resolution: int  # pixels
    interpolation: str
    left: float = 0.5  # share of the spare width left of the square, 0.5 = centred
    top: float = 0.5
    flip: bool = False


def decode(path: Path, alpha_background: str) -> Image.Image:
    """The picture as people see it: RGB, upright, transparency on `alpha_background`, 16 bits scaled to 8.

    Of an animation the first frame. Raises OSError (or another error of Pillow) where the file
    cannot be decoded to its last byte.
    """
    with Image.open(path) as file:
        file.load()
        picture = ImageOps.exif_transpose(file)
    if picture.mode.startswith("I"):  # 16-bit grey, which convert("RGB") would clip at 255
        values = np.asarray(picture).astype(np.float64) / 65535.0 * 255.0
        return Image.fromarray(np.clip(values.round(), 0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        with_alpha = picture.convert("RGBA")
        background = Image.new("RGBA", with_alpha.size, ImageColor.getrgb(alpha_background))
        return Image.alpha_composite(background, with_alpha).convert("RGB")
    return picture.convert("RGB")


def to_pixels(picture: Image.Image, view: View) -> Float[Tensor, "3 h w"]:
    """The square that `view` names, in [-1, 1]: shorter side resized to the resolution, then cut, then mirrored."""
    scale = view.resolution / min(picture.size)
    size = (max(view.resolution, round(picture.width * scale)), max(view.resolution, round(picture.height * scale)))
    resized = picture if size == picture.size else picture.resize(size, INTERPOLATION[view.interpolation])
    left = round((size[0] - view.resolution) * view.left)
    top = round((size[1] - view.resolution) * view.top)
    square = resized.crop((left, top, left + view.resolution, top + view.resolution))
    if view.flip:
        square = ImageOps.mirror(square)
    values = torch.from_numpy(np.array(square)).permute(2, 0, 1).float()
    return values / 127.5 - 1.0


def to_picture(pixels: Float[Tensor, "3 h w"]) -> Image.Image:
    """Pixels in [-1, 1] as an image; values outside are clipped."""
    values = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
