"""What each metric makes of pictures that get worse: writes docs/metrics.json and docs/metrics.svg.

Renders of the starter world (which need its font) are measured against renders of other scenes, first as they are,
then with one flaw that grows: blurred, noisy, fewer and fewer different ones, or under captions of other pictures.
"""

import argparse
import html
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageFilter

from pipeline.evaluation import looking
from pipeline.evaluation.extractors import photographs
from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.looking import PictureSet
from pipeline.evaluation.metrics.measure import Estimate
from pipeline.evaluation.metrics.table import METRICS
from pipeline.evaluation.picture_sets import keep
from pipeline.starter import reader, world

HERE = Path(__file__).parent
SEED = 41  # of scenes used for nothing else
ORDER = ("kid", "fid", "fid_infinity", "cmmd", "precision", "recall", "density", "coverage", "nearest_similarity",
         "vendi", "inception_score", "clip_score", "clip_margin", "r_precision")  # fmt: skip
WIDTH, HEIGHT, LEFT, TOP = 176, 74, 200, 46  # of a cell, and what is beside and above all cells

Pictures = list[Image.Image]
Flaw = Callable[[Pictures, float], Pictures]


def blurred(pictures: Pictures, radius: float) -> Pictures:
    """A Gaussian of so many pixels."""
    return [picture.filter(ImageFilter.GaussianBlur(radius)) for picture in pictures]


def noisy(pictures: Pictures, deviation: float) -> Pictures:
    """Independent noise of this standard deviation, of 1 for the whole range."""
    chance = np.random.default_rng(SEED)

    def one(picture: Image.Image) -> Image.Image:
        values = np.asarray(picture) + 255 * deviation * chance.normal(size=(*picture.size[::-1], 3))
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))

    return [one(picture) for picture in pictures]


def fewer(pictures: Pictures, lost: float) -> Pictures:
    """Only a part of them, again and again."""
    kept = max(1, round((1 - lost) * len(pictures)))
    return [pictures[place % kept] for place in range(len(pictures))]


def exchanged(pictures: Pictures, share: float) -> Pictures:
    """A part of them under the next one's caption."""
    number = round(share * len(pictures))
    return [*pictures[1:number], *pictures[:1], *pictures[number:]] if number else pictures


FLAWS: dict[str, tuple[Flaw, Sequence[float], str]] = {
    "blur": (blurred, (0, 0.5, 1, 2, 4), "pixels"),
    "noise": (noisy, (0, 0.02, 0.05, 0.1, 0.2), "of the range"),
    "fewer pictures": (fewer, (0, 0.5, 0.75, 0.9, 0.97), "lost"),
    "wrong captions": (exchanged, (0, 0.25, 0.5, 0.75, 1), "exchanged"),
}


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_pictures", type=int, default=240)
    number = parser.parse_args().num_pictures
    scenes, others = (world.held_out_scenes(SEED + shift, number) for shift in (0, 1))
    extractors = (photographs.extractor(), reader.load())
    found: dict[str, list[dict[str, object]]] = {}
    with TemporaryDirectory() as place:
        truth = kept(Path(place) / "truth", [scene.image() for scene in others], others, first=number)
        pictures = [scene.image() for scene in scenes]
        for name, (flaw, strengths, _) in FLAWS.items():
            found[name] = []
            for strength in strengths:
                folder = Path(place) / f"{name} {strength:g}"
                measured = estimates(
                    kept(folder, flaw(pictures, strength), scenes, first=0), truth, extractors, Path(place)
                )
                values = {one.metric: asdict(one) for one in measured if one.metric in ORDER}
                found[name].append({"strength": strength, **values})
    (HERE / "metrics.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (HERE / "metrics.svg").write_text(drawn(found, number), encoding="utf-8")


def kept(folder: Path, pictures: Pictures, scenes: Sequence[world.Scene], first: int) -> PictureSet:
    """Pictures with the captions of scenes, as a folder."""
    rows = [{"file": f"{i:04d}.png", "prompt": scene.caption()} for i, scene in enumerate(scenes)]
    keep(folder, pictures, rows, drawn=False)
    return PictureSet(folder, (), tuple(range(first, first + len(scenes))))


def estimates(pictures: PictureSet, truth: PictureSet, extractors: Sequence[Extractor], cache: Path) -> list[Estimate]:
    """Every metric; FID too, few as they are."""
    metrics = {name: replace(metric, min_pictures=3) for name, metric in METRICS.items()}
    sets = {"base": pictures, "reference": truth}
    return looking.estimates(sets, extractors, metrics=metrics, cache=cache)["base"]


def drawn(found: dict[str, list[dict]], number: int) -> str:
    """The values with their intervals, a row for each metric and a column for each flaw."""
    width, height = LEFT + len(FLAWS) * WIDTH, TOP + len(ORDER) * HEIGHT + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="11"><rect width="{width}" height="{height}" fill="white"/>'
    ]
    for column, (name, (_, strengths, unit)) in enumerate(FLAWS.items()):
        x = LEFT + column * WIDTH
        said = f"{strengths[0]:g} to {strengths[-1]:g} {unit}"
        parts.append(f'<text x="{x + 8}" y="18" font-weight="bold">{name}</text><text x="{x + 8}" y="34">{said}</text>')
    for row, metric in enumerate(ORDER):
        y = TOP + row * HEIGHT
        shown = [one[metric] for rows in found.values() for one in rows]
        low, high = min(one["low"] for one in shown), max(one["high"] for one in shown)
        about = METRICS[metric]
        parts.append(f'<text x="8" y="{y + 22}" font-weight="bold">{html.escape(about.short)}</text>')
        parts.append(f'<text x="8" y="{y + 38}" fill="#555">{html.escape(about.better or "")}</text>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 14}" fill="#555" text-anchor="end">{high:.3g}</text>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + HEIGHT - 12}" fill="#555" text-anchor="end">{low:.3g}</text>')
        for column, rows in enumerate(found.values()):
            x = LEFT + column * WIDTH
            parts.append(cell([one[metric] for one in rows], (x + 4, y + 4), (low, high)))
    parts.append(f"<desc>{number} pictures; lines are 95 % intervals.</desc></svg>")
    return "\n".join(parts) + "\n"


def cell(values: Sequence[dict[str, float]], corner: tuple[float, float], ends: tuple[float, float]) -> str:
    """One curve with its intervals."""
    (left, top), (low, high) = corner, ends
    width, height = WIDTH - 12, HEIGHT - 14

    def at(value: float) -> float:
        return top + height - (value - low) / (high - low or 1) * (height - 6) - 3

    xs = [left + 10 + place * (width - 20) / (len(values) - 1) for place in range(len(values))]
    bars = [
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{at(one["low"]):.1f}" y2="{at(one["high"]):.1f}" stroke="#0f8fa8" '
        'stroke-width="5" opacity="0.3"/>'
        for x, one in zip(xs, values, strict=True)
        if math.isfinite(one["high"] - one["low"])
    ]
    points = " ".join(f"{x:.1f},{at(one['value']):.1f}" for x, one in zip(xs, values, strict=True))
    frame = f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#ddd"/>'
    return "".join([frame, *bars, f'<polyline points="{points}" fill="none" stroke="#c2307f" stroke-width="1.6"/>'])


if __name__ == "__main__":
    main()
