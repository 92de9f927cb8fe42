"""The starter style: scenes as paper stickers at dusk. Made by code, and seen by no part of the base model."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pipeline.starter.world import COLOURS, PLACES, SIDE_PIXELS, SIDES, Scene, sprite_of

INKS = np.array([(44, 18, 92), (206, 44, 122), (255, 146, 66), (255, 238, 186)]) / 255  # from dark to light
PAPER = np.array((255, 246, 226)) / 255
SHADOW, SHADOW_SHARE, SHADOW_PIXELS = np.array((12, 6, 36)) / 255, 0.85, 4  # right and down
GROUND_SHARE = 0.45  # how much of the background colour is left at dusk
LUMINANCE = np.array((0.299, 0.587, 0.114))  # of R, G, B (ITU-R BT.601)


def sticker(scene: Scene) -> Image.Image:
    """The scene cut out of paper, printed in inks that blend by brightness, its shadow on a darkened ground."""
    shape = _silhouette(scene)
    brightness = _blurred(np.asarray(scene.image()).astype(np.float64) / 255 @ LUMINANCE, 0.8)
    paper = _ramp(_blurred(shape, 1.6), 0.05, 0.34)  # a rim of two pixels around the thing
    ground = GROUND_SHARE * np.array(COLOURS[scene.colour]) / 255
    picture = _over(np.broadcast_to(ground, (SIDE_PIXELS, SIDE_PIXELS, 3)), SHADOW_SHARE * _moved(paper), SHADOW)
    picture = _over(_over(picture, paper, PAPER), _blurred(shape, 0.5), _printed(brightness))
    return Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8))


def _silhouette(scene: Scene) -> NDArray[np.float64]:
    canvas = Image.new("L", (SIDE_PIXELS, SIDE_PIXELS), 0)
    sprite = sprite_of(scene.concept.glyph, SIDES[scene.count, scene.size])
    for x, y in PLACES[scene.count, scene.size][scene.place]:
        corner = (x + scene.shift[0] - sprite.width // 2, y + scene.shift[1] - sprite.height // 2)
        canvas.paste(255, corner, sprite.getchannel("A"))
    return np.asarray(canvas).astype(np.float64) / 255


def _printed(brightness: NDArray[np.float64]) -> NDArray[np.float64]:
    """Four inks, each brightness a blend of the two beside it: [h, w, 3]."""
    position = np.clip(brightness, 0, 1) * (len(INKS) - 1)
    darker = np.clip(np.floor(position).astype(int), 0, len(INKS) - 2)
    return _over(INKS[darker], position - darker, INKS[darker + 1])


def _ramp(field: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """0 below `low`, 1 above `high`, smooth between (3 u^2 - 2 u^3)."""
    u = np.clip((field - low) / (high - low), 0, 1)
    return u * u * (3 - 2 * u)


def _over(below: NDArray[np.float64], mask: NDArray[np.float64], colour: NDArray[np.float64]) -> NDArray[np.float64]:
    return below * (1 - mask[..., None]) + mask[..., None] * colour


def _moved(mask: NDArray[np.float64]) -> NDArray[np.float64]:
    padded = np.pad(mask, ((SHADOW_PIXELS, 0), (SHADOW_PIXELS, 0)), mode="edge")
    return padded[:SIDE_PIXELS, :SIDE_PIXELS]


def _blurred(field: NDArray[np.float64], pixels: float) -> NDArray[np.float64]:
    picture = Image.fromarray((np.clip(field, 0, 1) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(pixels))
    return np.asarray(picture).astype(np.float64) / 255
