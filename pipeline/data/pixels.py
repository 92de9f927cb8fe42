"""From a picture to model input and back: resize, crop, mirror, scale to [-1, 1]."""

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

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
