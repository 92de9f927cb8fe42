"""The values of an image file as 8 bits of sRGB: integers and floats scaled, colour profiles applied."""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

TOLERANCE = 1  # of 255: a profile that changes no colour by more is sRGB, and the pixels stay as they are
SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # what ICC calls them
UNREADABLE = "its colour profile cannot be read, so its colours are taken for sRGB"


def in_8_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 or 32 bits or of floats, scaled. Raises ValueError where its range is not known.

    Integers are shares of 65535, floats of 1; nothing says what other values would mean.
    """
    top = 1.0 if picture.mode == "F" else 65535.0
    values = np.asarray(picture).astype(np.float64)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= top * (1 + 1e-6)):
        kind = "floats" if picture.mode == "F" else "integers of 32 bits"
        held = f"from {low:g} to {high:g}" if np.isfinite(values).all() else "not all of them numbers"
        raise ValueError(f"its values are {kind}, {held}; only 0 to {top:g} can be read, so save it with 8 or 16 bits")
    scaled = Image.fromarray(np.clip((values / top * 255.0).round(), 0, 255).astype(np.uint8))
    scaled.info |= {key: value for key, value in picture.info.items() if key == "icc_profile"}
    return scaled


def to_srgb(picture: Image.Image) -> tuple[Image.Image, str | None]:
    """The picture in sRGB, with its transparency, and a remark where its profile is of no use.

    A picture without a profile, or with one of sRGB, comes back as it is. Colours are kept where sRGB has
    them (relative colorimetric, with black point compensation).
    """
    profile = picture.info.get("icc_profile")
    if not profile:
        return picture, None
    base = _opaque(picture)
    try:
        if base.mode == "L" and _space(profile) == "RGB":  # grey values are stored without their two copies
            base = base.convert("RGB")
        if _space(profile) != SPACES[base.mode]:
            return picture, f"its colour profile is for {_space(profile)}, so its colours are taken for sRGB"
        transform = _transform(profile, base.mode)
        if transform is None:
            return picture, None
        converted = ImageCms.applyTransform(base, transform)
    except (ImageCms.PyCMSError, OSError):
        return picture, UNREADABLE
    assert converted is not None
    if picture.has_transparency_data:
        converted.putalpha(picture.convert("RGBA").getchannel("A"))
    return converted, None


def _opaque(picture: Image.Image) -> Image.Image:
    """The colours of a picture alone, in one of the modes that profiles are for."""
    if picture.mode in ("L", "LA", "La", "1"):
        return picture.convert("L")
    return picture if picture.mode == "CMYK" else picture.convert("RGB")


def _space(profile: bytes) -> str:
    return str(ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space).strip()


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """How colours of this profile become sRGB; None where they are that already."""
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode == "CMYK":
        return transform
    steps = np.linspace(0, 255, 256 if mode == "L" else 17).round().astype(np.uint8)
    grid = steps[None] if mode == "L" else np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    sample = Image.fromarray(grid)
    converted = ImageCms.applyTransform(sample, transform)
    change = np.asarray(converted).astype(int) - np.asarray(sample.convert("RGB"))
    return transform if np.abs(change).max() > TOLERANCE else None
