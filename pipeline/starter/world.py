"""The starter world: small scenes of colour emoji, each with a caption that says all there is to see.

A scene is concept x count x size x place x background colour. Everything about it is a pure
function of a scene index and a seed, so that a rebuild draws the same world, and a share of
the combinations (never of the concepts) is held out of all training for evaluation.

The pictures come from Noto Color Emoji (Google, SIL Open Font License 1.1); only rebuilding
the base model or the dataset needs the font.
"""

import functools
import hashlib
import importlib.resources
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SIDE_PIXELS = 64
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
GLYPH_PIXELS = 109  # the one size at which the font carries bitmaps
NUM_HELD_OUT = 7  # of the 72 combinations of kind and colour, per concept

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 52, 56),
    "orange": (243, 140, 48),
    "yellow": (250, 218, 84),
    "green": (84, 170, 92),
    "teal": (44, 178, 180),
    "blue": (62, 112, 214),
    "purple": (136, 84, 190),
    "pink": (246, 164, 198),
    "brown": (124, 84, 54),
    "grey": (152, 152, 156),
    "black": (24, 24, 30),
    "white": (246, 246, 246),
}
COUNTS = {1: "one", 2: "two", 3: "three"}
SIZES = ("small", "large")

# (count, size) -> side of one emoji in pixels, and place -> centres in pixels.
SIDES = {(1, "large"): 48, (1, "small"): 28, (2, "large"): 31, (2, "small"): 24, (3, "large"): 30, (3, "small"): 24}
PLACES: dict[tuple[int, str], dict[str, tuple[tuple[int, int], ...]]] = {
    (1, "large"): {"in the middle": ((32, 32),)},
    (1, "small"): {
        "in the middle": ((32, 32),),
        "on the left": ((16, 32),),
        "on the right": ((48, 32),),
        "at the top": ((32, 16),),
        "at the bottom": ((32, 48),),
    },
    (2, "large"): {"side by side": ((16, 32), (48, 32)), "one above the other": ((32, 16), (32, 48))},
    (2, "small"): {"side by side": ((20, 32), (44, 32)), "one above the other": ((32, 20), (32, 44))},
    (3, "large"): {"in a triangle": ((32, 16), (16, 48), (48, 48))},
    (3, "small"): {"in a triangle": ((32, 20), (20, 44), (44, 44))},
}
KINDS = tuple(PLACES)
KIND_SHARES = (0.40, 0.18, 0.14, 0.10, 0.10, 0.08)  # of KINDS, in order
JITTER_PIXELS = 1

TEMPLATES = (
    "{noun} {place} on {a_colour} background",
    "{noun} on {a_colour} background, {place}",
    "{a_colour} background with {noun} {place}",
    "{noun}, {place}, {colour} background",
)
COLOURLESS_TEMPLATES = ("{noun} {place}", "{noun}", "{bare}")
SHORT_TEMPLATES = ("{noun} on {a_colour} background", *COLOURLESS_TEMPLATES)
SHORT_SHARE = 0.15


@dataclass(frozen=True)
class Concept:
    """One thing the world can show: its glyph and what a caption calls it."""

    glyph: str
    name: str
    plural: str


@dataclass(frozen=True)
class Scene:
    """What a picture shows; its pixels and caption follow from it."""

    concept: Concept
    count: int
    size: str
    place: str
    colour: str
    shift: tuple[int, int] = (0, 0)  # pixels, right and down

    @property
    def held_out(self) -> bool:
        """Whether this combination is kept from all training (the concept itself never is)."""
        return (self.count, self.size, self.colour) in held_out_combinations(self.concept.name)

    @property
    def unshifted(self) -> "Scene":
        """All of it that a caption can say."""
        return replace(self, shift=(0, 0))

    def noun(self) -> str:
        """The noun phrase, for example 'two small foxes'."""
        if self.count == 1:
            return f"a {self.size} {self.concept.name}"
        return f"{COUNTS[self.count]} {self.size} {self.concept.plural}"

    def caption(self, template: str = TEMPLATES[0]) -> str:
        """The caption in one phrasing of TEMPLATES or SHORT_TEMPLATES."""
        name = self.concept.name
        return template.format(
            noun=self.noun(),
            place=self.place,
            colour=self.colour,
            a_colour=with_article(self.colour),
            bare=with_article(name) if self.count == 1 else f"{COUNTS[self.count]} {self.concept.plural}",
        )

    def image(self) -> Image.Image:
        """The picture, RGB, SIDE_PIXELS square, on the flat background colour."""
        canvas = Image.new("RGB", (SIDE_PIXELS, SIDE_PIXELS), COLOURS[self.colour])
        sprite = sprite_of(self.concept.glyph, SIDES[self.count, self.size])
        for x, y in PLACES[self.count, self.size][self.place]:
            left = x + self.shift[0] - sprite.width // 2
            top = y + self.shift[1] - sprite.height // 2
            canvas.paste(sprite, (left, top), sprite)
        return canvas


def with_article(noun: str) -> str:
    """The noun with 'a' or 'an' before it ('unicorn' starts with a consonant's sound)."""
    return f"{'an' if noun[0] in 'aeiou' and not noun.startswith('uni') else 'a'} {noun}"


@functools.cache
def concepts() -> tuple[Concept, ...]:
    """Every concept of the world, in the order of concepts.tsv."""
    text = importlib.resources.files(__package__).joinpath("concepts.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return tuple(Concept(row[0], row[1], row[2] if len(row) > 2 else row[1] + "s") for row in rows)


@functools.cache
def held_out_combinations(name: str) -> frozenset[tuple[int, str, str]]:
    """The (count, size, colour) combinations of a concept that no training ever sees, chosen by hash."""
    combinations = [(count, size, colour) for count, size in KINDS for colour in COLOURS]

    def key(combination: tuple[int, str, str]) -> bytes:
        return hashlib.blake2b(f"{name}|{combination}".encode(), digest_size=8).digest()

    return frozenset(sorted(combinations, key=key)[:NUM_HELD_OUT])


@functools.cache
def sprite_of(glyph: str, side: int) -> Image.Image:
    """One emoji cut to its ink, its longer side `side` pixels, with alpha (RGBA).

    Raises FileNotFoundError without the font, ValueError for a glyph that it does not have.
    """
    if not FONT.exists():
        raise FileNotFoundError(
            f"{FONT} is missing: drawing the starter world needs Debian's package fonts-noto-color-emoji. "
            "Training on the shipped starter dataset does not."
        )
    font = ImageFont.truetype(str(FONT), GLYPH_PIXELS)
    sheet = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(sheet).text((10, 10), glyph, font=font, embedded_color=True)
    box = sheet.getbbox()
    if box is None:
        raise ValueError(f"The font draws nothing for {unicodedata.name(glyph[0], glyph)}: choose another concept.")
    ink = sheet.crop(box)
    scale = side / max(ink.size)
    size = (max(1, round(ink.width * scale)), max(1, round(ink.height * scale)))
    # Resize with premultiplied alpha, or the colour hidden under transparent pixels bleeds into the rim.
    return ink.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")


def draw_scene(generator: np.random.Generator, concept: Concept | None = None) -> Scene:
    """One random scene; of any concept unless one is given."""
    everything = concepts()
    chosen = concept or everything[int(generator.integers(len(everything)))]
    count, size = KINDS[int(generator.choice(len(KINDS), p=KIND_SHARES))]
    places = tuple(PLACES[count, size])
    colours = tuple(COLOURS)
    shift_x, shift_y = (int(value) for value in generator.integers(-JITTER_PIXELS, JITTER_PIXELS + 1, size=2))
    return Scene(
        concept=chosen,
        count=count,
        size=size,
        place=places[int(generator.integers(len(places)))],
        colour=colours[int(generator.integers(len(colours)))],
        shift=(shift_x, shift_y),
    )


def training_scene(seed: int, index: int) -> tuple[Scene, str]:
    """Scene `index` of the training world and its caption; never a held-out combination."""
    generator = np.random.default_rng((seed, index))
    scene = draw_scene(generator)
    while scene.held_out:
        scene = draw_scene(generator)
    templates = SHORT_TEMPLATES if generator.random() < SHORT_SHARE else TEMPLATES
    return scene, scene.caption(templates[int(generator.integers(len(templates)))])


def held_out_scenes(seed: int, num_scenes: int) -> list[Scene]:
    """`num_scenes` held-out scenes, the concepts taken in turn so that each is tested equally often."""
    generator = np.random.default_rng((seed, 1 << 40))
    order = generator.permutation(len(concepts()))
    scenes: list[Scene] = []
    while len(scenes) < num_scenes:
        concept = concepts()[int(order[len(scenes) % len(order)])]
        scene = draw_scene(generator, concept)
        while not scene.held_out:
            scene = draw_scene(generator, concept)
        scenes.append(scene)
    return scenes


def to_array(picture: Image.Image) -> NDArray[np.float32]:
    """RGB pixels as the models take them: [3, h, w] in [-1, 1]."""
    return np.asarray(picture, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1.0
