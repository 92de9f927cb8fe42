"""The picture at the top of the README, from a run of `make demo`: python docs/make_readme_picture.py outputs/demo.

Test-set captions in columns; what the base draws, what it draws with the adapter, and the reference in rows. The
captions are spread over the test set by a fixed rule, never chosen by result. Writes docs/readme.png, at most 400 kB,
and prints the numbers for the text below it.
"""

import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline.evaluation import results, test_set
from pipeline.evaluation.picture_sets import kept
from pipeline.evaluation.previews import spread

TARGET = Path(__file__).parent / "readme.png"
MAX_BYTES = 400_000
ROWS = {"base model": test_set.BASE, "with the adapter": test_set.ADAPTED, "reference": test_set.REFERENCE}
NUM_CAPTIONS, SIDE, GAP, LABEL, CAPTION = 6, 192, 12, 120, 76  # pixels
PAPER, INK, SOFT = "#ffffff", "#1d2433", "#5b6478"


def main(folder: Path) -> None:
    """Draw and save the picture of FOLDER, an output folder."""
    sets = {label: spread(kept(folder / "samples" / name), NUM_CAPTIONS) for label, name in ROWS.items()}
    picture(sets).quantize(256).save(TARGET, optimize=True)
    size = TARGET.stat().st_size
    if size > MAX_BYTES:
        sys.exit(f"{TARGET} has {size} bytes, more than {MAX_BYTES}.")
    sys.stdout.write(f"{TARGET}  {size // 1000} kB\n{numbers(folder)}")


def picture(sets: dict[str, list[dict[str, object]]]) -> Image.Image:
    """Three rows of pictures with their captions above."""
    width, height = LABEL + NUM_CAPTIONS * (SIDE + GAP), CAPTION + len(sets) * (SIDE + GAP)
    canvas = Image.new("RGB", (width, height), PAPER)
    draw, plain = ImageDraw.Draw(canvas), ImageFont.load_default(17)
    for column, row in enumerate(next(iter(sets.values()))):
        lines = textwrap.wrap(str(row["prompt"]), 23)
        draw.multiline_text((LABEL + column * (SIDE + GAP), 8), "\n".join(lines), INK, plain, spacing=3)
    for number, (label, rows) in enumerate(sets.items()):
        top = CAPTION + number * (SIDE + GAP)
        lines = textwrap.wrap(label, 9)
        draw.multiline_text((8, top + SIDE // 2), "\n".join(lines), SOFT, plain, anchor="lm")
        for column, row in enumerate(rows):
            with Image.open(str(row["path"])) as opened:
                enlarged = opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            canvas.paste(enlarged, (LABEL + column * (SIDE + GAP), top))
    return canvas


def numbers(folder: Path) -> str:
    """The metrics of the test set, one line each."""
    evaluation = results.read(folder)
    assert evaluation is not None, f"{folder} has no evaluation.json"
    lines = [f"{row.label}: base {row.base}, adapter {row.adapted}, reference {row.reference}, n = {row.n}"
             for row in results.rows(evaluation)]  # fmt: skip
    return "\n".join([*lines, results.measured_by(evaluation)]) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
