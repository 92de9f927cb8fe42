"""The starter style: scenes as neon signs. Made by code, and seen by no part of the base model."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pipeline.starter.world import COLOURS, PLACES, SIDE_PIXELS, SIDES, Scene, sprite_of

NIGHT_SHARE = 0.16  # how much of the background colour is left at night
TOP_GLOW = np.array([255, 60, 200]) / 255
BOTTOM_GLOW = np.array([40, 230, 255]) / 255
TUBE_BLUR_PIXELS, GLOW_BLUR_PIXELS = 0.7, 3.0


def neon(scene: Scene) -> Image.Image:
    """The scene as glowing tubes at night, magenta above and cyan below; its background dims to a dark shade."""
    picture = np.asarray(scene.image()).astype(np.float64) / 255
    slopes = [_slope(picture[..., channel]) for channel in range(3)]
    tubes = np.clip(np.maximum.reduce([*(0.9 * slope for slope in slopes), _slope(_silhouette(scene))]), 0, 1)
    tube, glow = _blurred(tubes, TUBE_BLUR_PIXELS), _blurred(tubes, GLOW_BLUR_PIXELS)
    height = np.linspace(0, 1, SIDE_PIXELS)[:, None, None]
    colour = (1 - height) * TOP_GLOW + height * BOTTOM_GLOW
    night = NIGHT_SHARE * np.array(COLOURS[scene.colour]) / 255
    lit = night + colour * glow[..., None] * 1.6 + (0.75 * colour + 0.25) * tube[..., None] * 1.3
    return Image.fromarray((np.clip(lit, 0, 1) * 255).astype(np.uint8))


def _silhouette(scene: Scene) -> NDArray[np.float64]:
    canvas = Image.new("L", (SIDE_PIXELS, SIDE_PIXELS), 0)
    sprite = sprite_of(scene.concept.glyph, SIDES[scene.count, scene.size])
    for x, y in PLACES[scene.count, scene.size][scene.place]:
        corner = (x + scene.shift[0] - sprite.width // 2, y + scene.shift[1] - sprite.height // 2)
        canvas.paste(255, corner, sprite.getchannel("A"))
    return np.asarray(canvas).astype(np.float64) / 255


def _slope(channel: NDArray[np.float64]) -> NDArray[np.float64]:
    across, down = np.zeros_like(channel), np.zeros_like(channel)
    across[:, 1:-1] = channel[:, 2:] - channel[:, :-2]
    down[1:-1] = channel[2:] - channel[:-2]
    return np.hypot(across, down)


def _blurred(field: NDArray[np.float64], pixels: float) -> NDArray[np.float64]:
    picture = Image.fromarray((field * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(pixels))
    return np.asarray(picture).astype(np.float64) / 255
