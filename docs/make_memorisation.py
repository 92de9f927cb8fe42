"""What `memorisation` finds of a fresh adapter and of one that was overfitted on purpose.

python docs/make_memorisation.py FRESH OVERFITTED, two folders that `python -m pipeline memorisation` wrote. Their
figures go to docs/memorisation.json; docs/memorisation.png, at most 300 kB, shows them beside the nearest pairs.
"""

import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline import records
from pipeline.evaluation import memorisation
from pipeline.evaluation.memorisation import ALARM, Memorisation
from pipeline.evaluation.statistics import Interval

HERE = Path(__file__).parent
MAX_BYTES = 300_000
PAPER, INK, SOFT, LINE = "#ffffff", "#1d2433", "#5b6478", "#d5d9e2"
COLOURS = {"fresh": "#0f8fa8", "overfitted": "#c2307f"}
ROWS = {
    "by_loss": "by how far its loss fell",
    "by_drawing": "by what is drawn from its caption",
    "by_sameness": "by how alike its drawings are",
    "by_noise": "by its caption on pure noise",
}
LEFT, CHART, TOP, ROW = 270, 330, 112, 78  # pixels: the names, the axis, what is above, one figure
SIDE, GAP, COLUMNS, PAIRS, WORDS = 112, 8, 3, 6, 56  # of pictures; what is below each pair


def main(fresh: Path, overfitted: Path) -> None:
    """Write the numbers, draw the picture."""
    found = {"fresh": memorisation.read(fresh), "overfitted": memorisation.read(overfitted)}
    text = json.dumps({name: records.to_json(one) for name, one in found.items()}, indent=1)
    (HERE / "memorisation.json").write_text(text + "\n", encoding="utf-8")
    target = HERE / "memorisation.png"
    drawn(found, overfitted).quantize(128).save(target, optimize=True)
    size = target.stat().st_size
    if size > MAX_BYTES:
        sys.exit(f"{target} has {size} bytes, more than {MAX_BYTES}.")
    sys.stdout.write(f"{target}  {size // 1000} kB\n")


def drawn(found: dict[str, Memorisation], folder: Path) -> Image.Image:
    """The figures on the left, pairs of the overfitted adapter on the right."""
    start = LEFT + CHART + 60
    width = start + COLUMNS * (2 * SIDE + 3 * GAP) + GAP
    canvas = Image.new("RGB", (width, TOP + len(ROWS) * ROW + 60), PAPER)
    draw = ImageDraw.Draw(canvas)
    chart(draw, found)
    pairs(canvas, found["overfitted"], folder, start)
    return canvas


def chart(draw: ImageDraw.ImageDraw, found: dict[str, Memorisation]) -> None:
    """How often a training picture is told from a held-out one, with intervals."""
    bold, plain = ImageFont.load_default(19), ImageFont.load_default(15)
    number = found["fresh"].n
    draw.text((16, 14), "How often is a training picture told", INK, bold)
    draw.text((16, 38), "from one that was held out?", INK, bold)
    x = 16
    for name, colour in COLOURS.items():
        draw.ellipse((x, 74, x + 12, 86), colour)
        words = {"fresh": "a fresh adapter", "overfitted": "overfitted on purpose"}[name]
        draw.text((x + 18, 71), words, INK, plain)
        x += 50 + int(draw.textlength(words, plain))
    bottom = TOP + len(ROWS) * ROW
    for value, words in ((0.25, "25 %"), (0.5, "50 %\nchance"), (0.75, "75 %"), (ALARM, "90 %\nalarm"), (1, "")):
        draw.line((at(value), TOP, at(value), bottom), SOFT if value in (0.5, ALARM) else LINE)
        draw.multiline_text((at(value), bottom + 6), words, SOFT, plain, anchor="ma", align="center")
    for row, (name, words) in enumerate(ROWS.items()):
        y = TOP + row * ROW + ROW // 2
        draw.text((16, y), words, INK, plain, anchor="lm")
        for shift, (adapter, colour) in zip((-14, 20), COLOURS.items(), strict=True):
            if (figure := found[adapter].figures.get(name)) is not None:
                mark(draw, figure, (y + shift, colour))
    draw.text((16, bottom + 8), f"{number} pictures of each side,", SOFT, plain)
    draw.text((16, bottom + 26), "lines are 95 % intervals", SOFT, plain)


def mark(draw: ImageDraw.ImageDraw, figure: Interval, where: tuple[int, str]) -> None:
    """A value with its interval."""
    y, colour = where
    draw.line((at(figure.low), y, at(figure.high), y), colour, 4)
    draw.ellipse((at(figure.value) - 6, y - 6, at(figure.value) + 6, y + 6), colour)
    plain = ImageFont.load_default(14)
    draw.text(
        (at(figure.value), y - 8), f"{figure.value:.0%}", colour, plain, anchor="mb", stroke_width=3, stroke_fill=PAPER
    )


def at(value: float) -> float:
    """Where a share lies on the axis, which begins at a quarter."""
    return LEFT + (value - 0.25) / 0.75 * CHART


def pairs(canvas: Image.Image, found: Memorisation, folder: Path, start: int) -> None:
    """The nearest drawings, each beside its training picture."""
    draw, bold, plain = ImageDraw.Draw(canvas), ImageFont.load_default(19), ImageFont.load_default(14)
    shown: Sequence[memorisation.Copy] = found.copies[:PAIRS]
    draw.text((start, 14), "Trained under captions of other pictures, the overfitted", INK, bold)
    draw.text((start, 38), "one draws what it saw, not what the caption says", INK, bold)
    words = f"left: drawn, right: the training picture of that caption; the {len(shown)} nearest of {found.n}"
    draw.text((start, 74), words, SOFT, plain)
    for place, copy in enumerate(shown):
        x = start + place % COLUMNS * (2 * SIDE + 3 * GAP)
        y = TOP - 8 + place // COLUMNS * (SIDE + WORDS)
        for shift, name in enumerate((copy.drawn, copy.true)):
            with Image.open(folder / name) as opened:
                enlarged = opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            canvas.paste(enlarged, (x + shift * (SIDE + 2), y))
        text = "\n".join(textwrap.wrap(f"“{copy.caption}”", 32))
        draw.multiline_text((x, y + SIDE + 4), text, INK, plain, spacing=2)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
