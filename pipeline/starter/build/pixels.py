"""Pictures far broader than the renders, for the autoencoder: it must carry styles it has never seen.

Each picture is a scene with its colours, tones or edges redrawn at random, or no scene at all:
gradients, shapes, strokes, lettering, textures, noise. None of it is the starter style.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from pipeline.starter import world

SIDE = world.SIDE_PIXELS


def broad_picture(seed: int, index: int) -> Image.Image:
    """Picture `index` of the broad set: RGB, SIDE pixels square, a pure function of (seed, index)."""
    generator = np.random.default_rng((seed, 7, index))
    scene, _ = world.training_scene(seed, index)
    kind = generator.random()
    if kind < 0.35:
        return scene.image()
    if kind < 0.80:
        return restyled(scene.image(), generator)
    return _abstract(generator)


def _colour(generator: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in generator.integers(0, 256, size=3))
    return red, green, blue


def restyled(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
    """The picture with its colours, tones or edges redrawn at random."""
    kind = int(generator.integers(8))
    if kind == 0:  # another hue, saturation and brightness
        hsv = np.asarray(picture.convert("HSV")).astype(np.int32)
        hsv[..., 0] = (hsv[..., 0] + generator.integers(256)) % 256
        hsv[..., 1:] = np.clip(hsv[..., 1:] * generator.uniform(0.3, 1.6, size=2), 0, 255)
        return Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB")
    if kind == 1:
        return ImageOps.invert(picture)
    if kind == 2:  # tones mapped on three random colours
        return ImageOps.colorize(
            picture.convert("L"), _colour(generator), _colour(generator), _colour(generator), midpoint=128
        )
    if kind == 3:
        return ImageOps.posterize(picture, int(generator.integers(1, 4)))
    if kind == 4:  # outlines in one colour on another
        edges = picture.convert("L").filter(ImageFilter.FIND_EDGES).crop((1, 1, SIDE - 1, SIDE - 1))
        mask = ImageOps.autocontrast(edges.resize((SIDE, SIDE)))
        return Image.composite(
            Image.new("RGB", picture.size, _colour(generator)), Image.new("RGB", picture.size, _colour(generator)), mask
        )
    if kind == 5:  # coarse blocks
        cells = int(generator.choice([8, 16, 21, 32]))
        return picture.resize((cells, cells), Image.Resampling.BOX).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    if kind == 6:  # a texture laid over
        return Image.blend(picture, _texture(generator), float(generator.uniform(0.2, 0.6)))
    noisy = np.asarray(picture) + generator.normal(0, generator.uniform(4, 40), size=(SIDE, SIDE, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def line_drawing(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
    """The picture's edges alone, in one or two random colours on a plain ground: thin or thick, bright or dark."""
    values = np.asarray(picture).astype(np.float64) / 255
    down, across = np.gradient(values, axis=(0, 1))
    edges = np.hypot(down, across).max(axis=2) * generator.uniform(1.2, 4)
    drawn = Image.fromarray((np.clip(edges, 0, 1) * 255).astype(np.uint8))
    mask = drawn.filter(ImageFilter.GaussianBlur(float(generator.uniform(0, 1.2))))
    ground = Image.new("RGB", picture.size, _colour(generator))
    if generator.random() < 0.5:  # a dark ground
        ground = ground.point(lambda value: value // 5)
    ink = _gradient(generator) if generator.random() < 0.5 else Image.new("RGB", picture.size, _colour(generator))
    return Image.composite(ink, ground, mask)


def _abstract(generator: np.random.Generator) -> Image.Image:
    canvas = _gradient(generator)
    draw = ImageDraw.Draw(canvas)
    kind = int(generator.integers(5))
    if kind == 0:
        return canvas
    if kind == 1:
        return _texture(generator)
    for _ in range(int(generator.integers(2, 14))):
        points = [(float(x), float(y)) for x, y in generator.uniform(-8, SIDE + 8, size=(3, 2))]
        if kind == 2:
            draw.line(points, fill=_colour(generator), width=int(generator.integers(1, 5)), joint="curve")
        elif kind == 3:
            draw.polygon(points, fill=_colour(generator), outline=_colour(generator))
            (left, right), (top, bottom) = sorted((points[0][0], points[1][0])), sorted((points[0][1], points[1][1]))
            draw.ellipse((left, top, right, bottom), fill=_colour(generator))
        else:
            letters = "".join(chr(int(code)) for code in generator.integers(33, 127, size=5))
            draw.text(
                points[0],
                letters,
                fill=_colour(generator),
                font=ImageFont.load_default(float(generator.integers(8, 30))),
            )
    return canvas


def _gradient(generator: np.random.Generator) -> Image.Image:
    corners = np.array([[_colour(generator) for _ in range(2)] for _ in range(2)], dtype=np.uint8)
    return Image.fromarray(corners).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _texture(generator: np.random.Generator) -> Image.Image:
    """Stripes, checks or smooth noise in random colours, at a random scale and angle."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    angle, wavelength = generator.uniform(0, np.pi), generator.uniform(3, 24)
    along = np.cos(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wavelength)
    across = np.cos(2 * np.pi * (y * np.cos(angle) - x * np.sin(angle)) / wavelength)
    kind = int(generator.integers(3))
    if kind == 0:
        field = along
    elif kind == 1:
        field = along * across
    else:
        cells = int(generator.integers(4, 33))
        coarse = Image.fromarray(generator.uniform(0, 1, size=(cells, cells)).astype(np.float32))
        field = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) * 2.0 - 1.0
    if generator.random() < 0.4:
        field = np.sign(field)
    mix = np.clip(field / 2 + 0.5, 0, 1)[..., None]
    low, high = np.array(_colour(generator)), np.array(_colour(generator))
    return Image.fromarray((low * (1 - mix) + high * mix).astype(np.uint8))
