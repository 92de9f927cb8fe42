"""From a picture to model input and back: resize, crop, mirror, scale to [-1, 1]."""

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from pipeline.conditioning import Geometry
from pipeline.data.images import View

INTERPOLATION = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


def to_pixels(picture: Image.Image, view: View) -> Float[Tensor, "3 h w"]:
    """The square that `view` names, in [-1, 1]: shorter side resized to the resolution, then cut, then mirrored."""
    size, left, top = _cut(picture.width, picture.height, view)
    resized = picture if size == picture.size else picture.resize(size, INTERPOLATION[view.interpolation])
    square = resized.crop((left, top, left + view.resolution, top + view.resolution))
    if view.flip:
        square = ImageOps.mirror(square)
    values = torch.from_numpy(np.array(square)).permute(2, 0, 1).float()
    return values / 127.5 - 1.0


def geometry_of(width: int, height: int, view: View) -> Geometry:
    """Where `view` cuts its square, as the mirrored picture shows it: from its left edge, which was the right one."""
    size, left, top = _cut(width, height, view)
    seen_left = size[0] - view.resolution - left if view.flip else left
    return Geometry(height, width, top, seen_left, view.resolution, view.resolution)


def _cut(width: int, height: int, view: View) -> tuple[tuple[int, int], int, int]:
    """The size after resizing, and the left and top of the square in it."""
    scale = view.resolution / min(width, height)
    size = (max(view.resolution, round(width * scale)), max(view.resolution, round(height * scale)))
    return size, round((size[0] - view.resolution) * view.left), round((size[1] - view.resolution) * view.top)


def to_picture(pixels: Float[Tensor, "3 h w"]) -> Image.Image:
    """Pixels in [-1, 1] as an image; values outside are clipped."""
    values = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
