"""From a picture to model input and back: resize, crop, mirror, scale to [-1, 1]."""

import math

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from pipeline.data.images import View
from pipeline.geometry import Geometry, Size

INTERPOLATION = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


ENHANCE = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)  # in the order of View.colours


def to_pixels(picture: Image.Image, view: View) -> Float[Tensor, "3 h w"]:
    """What `view` shows, in [-1, 1]: resized until it covers the size, cut, turned, mirrored, then coloured."""
    resized_to, left, top = _cut(Size(picture.width, picture.height), view)
    corner = (resized_to.width, resized_to.height)
    resized = picture if corner == picture.size else picture.resize(corner, INTERPOLATION[view.interpolation])
    around = _around(view)
    cut = resized.crop((left, top, left + around.width, top + around.height))
    if view.angle:
        x, y = (around.width - view.size.width) // 2, (around.height - view.size.height) // 2
        turned = cut.rotate(view.angle, Image.Resampling.BICUBIC)
        cut = turned.crop((x, y, x + view.size.width, y + view.size.height))
    for enhance, factor in zip(ENHANCE, view.colours, strict=True):
        if factor != 1:
            cut = enhance(cut).enhance(factor)
    if view.flip:
        cut = ImageOps.mirror(cut)
    return of_picture(cut)


def of_picture(picture: Image.Image) -> Float[Tensor, "3 h w"]:
    """A whole RGB picture, in [-1, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1.0


def geometry_of(original: Size, view: View) -> Geometry:
    """Where `view` cuts a picture, as the mirrored one shows it: from its left edge, which was the right one.

    Of a turned view, where the upright rectangle around the same centre lies.
    """
    resized_to, left, top = _cut(original, view)
    around = _around(view)
    left, top = left + (around.width - view.size.width) // 2, top + (around.height - view.size.height) // 2
    seen_left = resized_to.width - view.size.width - left if view.flip else left
    return Geometry(original, top, seen_left, view.size)


def _cut(original: Size, view: View) -> tuple[Size, int, int]:
    """The size after resizing, and the left and top of the cut in it."""
    size = _around(view)
    scale = max(size.width / original.width, size.height / original.height)
    width = max(size.width, round(original.width * scale))
    height = max(size.height, round(original.height * scale))
    return Size(width, height), round((width - size.width) * view.left), round((height - size.height) * view.top)


def _around(view: View) -> Size:
    """What is cut before it is turned: the smallest upright rectangle that the turned view fits in, with its centre."""
    if not view.angle:
        return view.size
    width, height, angle = view.size.width, view.size.height, math.radians(abs(view.angle))
    extra = [math.cos(angle) * width + math.sin(angle) * height - width]
    extra.append(math.cos(angle) * height + math.sin(angle) * width - height)
    more_width, more_height = (2 * (math.ceil(max(0.0, length) / 2) + 1) for length in extra)  # a pixel to interpolate
    return Size(width + more_width, height + more_height)


def to_picture(pixels: Float[Tensor, "3 h w"]) -> Image.Image:
    """Pixels in [-1, 1] as an image; values outside are clipped."""
    values = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
