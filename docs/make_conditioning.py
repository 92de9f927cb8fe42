"""Trains and draws what docs/conditioning.md shows: python docs/make_conditioning.py [ARM ...]

Settings, seeds and the rule stand in docs/conditioning.toml. What is there already is not made again, so a run that was
stopped goes on. Without arms all are made, then docs/conditioning.json and the figures; with --show these are made of
what there is, and nothing is trained or drawn.
"""

import argparse
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

import pipeline
from pipeline.adapter.names import FILE as ADAPTER
from pipeline.commands.frontier.frontier import trace
from pipeline.commands.frontier.options import FrontierOptions
from pipeline.evaluation.frontier import found as frontiers
from pipeline.evaluation.frontier.curve import at_matched_diversity
from pipeline.evaluation.frontier.found import Frontier, Row
from pipeline.evaluation.picture_sets import kept
from pipeline.evaluation.statistics import Interval, mean_of

HERE = Path(__file__).parent
PLAN = tomllib.loads((HERE / "conditioning.toml").read_text(encoding="utf-8"))
WORK = HERE.parent / "outputs" / "conditioning"
GUIDED = ("guided", "guided-live")  # arms that learnt guidance
FEW = "few"  # the folder of a frontier of fewer captions
COLOURS = ("#0f8fa8", "#c2307f", "#e0a526", "#6b7bd6", "#58a55c", "#8a5a44")
STRIP = ("cfg", (1.0, 1.5, 2.0, 3.0, 5.0), 4)  # method, scales, pictures of the first caption
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 520, 330, 56, 40, 44


def main() -> None:
    """Train, draw, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", metavar="ARM", help="train and draw these alone, and write nothing")
    parser.add_argument("--show", action="store_true", help="numbers and figures of what there is")
    given = parser.parse_args()
    if not given.show:
        for make in (train, draw):
            for arm in given.arms or PLAN["arms"]:
                make(arm)
    if given.show or not given.arms:
        found = {arm: collected(arm) for arm in PLAN["arms"] if any((WORK / arm).glob("*/frontier.json"))}
        (HERE / "conditioning.json").write_text(json.dumps(found | {"against": compared()}, indent=1) + "\n", "utf-8")
        figures()


def train(arm: str) -> None:
    """The run of an arm, unless it is there."""
    out = WORK / arm
    if (out / ADAPTER).is_file():
        return
    values: dict[str, Any] = {**PLAN["recipe"], **PLAN["arms"][arm], "seed": PLAN["seed"], "report_to": "none"}
    values |= {"output_dir": str(out), "overwrite_output_dir": True}
    pipeline.train(pipeline.Run().replaced(**values))


def draw(arm: str) -> None:
    """The frontiers of an arm; what is drawn already is not drawn again."""
    if arm in ("plain", *GUIDED):
        scales = PLAN["methods"] if arm == "plain" else {"cfg": PLAN["methods"]["cfg"]}
        for method, chosen in scales.items():
            traced(arm, PLAN["captions"], method, chosen, WORK / arm / f"frontier-{method}")
    if arm not in GUIDED:
        traced(arm, PLAN["few_captions"], "cfg", PLAN["methods"]["cfg"], WORK / arm / FEW)


def traced(arm: str, captions: int, method: str, scales: Sequence[float], to: Path) -> None:
    """One frontier of one method, every caption in every way."""
    options = FrontierOptions(
        limit=captions,
        num_images=PLAN["num_images"],
        method=[method],
        guidance_scales=list(scales),
        scales=[1.0],
        all_pictures=True,
        to=to,
    )
    trace(WORK / arm, options, as_json=False)


def read(arm: str, folder: str) -> Frontier:
    """A frontier that was traced."""
    found = frontiers.read(WORK / arm / folder)
    assert found is not None, f"{arm} was not drawn"
    return found


def collected(arm: str) -> dict[str, Any]:
    """The numbers of an arm."""
    folders = [path.parent.name for path in sorted((WORK / arm).glob("*/frontier.json"))]
    return {
        folder: [
            {"way": row.setting.title, "scale": row.setting.guidance_scale, "far": row.is_far}
            | {name: vars(getattr(row, name)) for name in ("adherence", "diversity", "vendi", "kid")}
            for row in frontiers.far_apart(read(arm, folder).rows)
        ]
        for folder in folders
    }


def compared() -> dict[str, Any]:
    """Methods and dropout at matched diversity, and the guided model without guidance against the plain one with it."""
    plain, found = read("plain", "frontier-cfg"), dict[str, Any]()
    for method, other in drawn_methods().items():
        if method == "cfg":
            continue
        change, between = matched((*plain.rows[:1], *other.rows), plain.rows)  # at scale 1 all methods are one
        found[method] = {"change": vars(change), "between": between}
    for arm in (name for name in PLAN["arms"] if name.startswith("dropout") and has(name, FEW) and has("plain", FEW)):
        change, between = matched(read(arm, FEW).rows, read("plain", FEW).rows)
        found[arm] = {"change": vars(change), "between": between}
    for arm in (name for name in GUIDED if has(name, "frontier-cfg")):
        change, between = matched(read(arm, "frontier-cfg").rows, plain.rows)
        found[arm] = {"change": vars(change), "between": between}
        guided = at_scale(read(arm, "frontier-cfg"), 1.0)
        for scale in (1.0, 2.0):
            found[f"{arm} at 1 against plain at {scale:g}"] = paired(guided, at_scale(plain, scale))
    return found


def matched(first: Sequence[Row], second: Sequence[Row]) -> tuple[Interval, tuple[float, float]]:
    """The first against the second at matched diversity, without what falls apart beside the nearest of both."""
    marked = frontiers.far_apart((*first, *second))
    parts = marked[: len(first)], marked[len(first) :]
    return at_matched_diversity(*([row.point for row in rows if not row.is_far] for rows in parts))


def has(arm: str, folder: str) -> bool:
    """Whether a frontier was traced to its end."""
    return (WORK / arm / folder / frontiers.FILE).is_file()


def drawn_methods() -> dict[str, Frontier]:
    """The frontiers of `plain`, by method."""
    return {name: read("plain", f"frontier-{name}") for name in PLAN["methods"] if has("plain", f"frontier-{name}")}


def at_scale(found: Frontier, scale: float) -> Row:
    """The way with this guidance scale."""
    return next(row for row in found.rows if row.setting.guidance_scale == scale)


def paired(one: Row, other: Row) -> dict[str, Any]:
    """Differences over the same captions and seeds, and whether adherence is equal by the rule."""
    changes: dict[str, Interval] = {
        name: mean_of(getattr(one.point, name) - getattr(other.point, name)) for name in ("adherence", "diversity")
    }
    within = PLAN["equal_within"]
    is_equal = -within < changes["adherence"].low and changes["adherence"].high < within
    return {name: vars(change) for name, change in changes.items()} | {"equal": is_equal}


def figures() -> None:
    """The figures, and the strip of pictures."""
    curves = {method: found.rows for method, found in drawn_methods().items()}
    curves["trained guidance"] = read("guided", "frontier-cfg").rows
    if has("guided-live", "frontier-cfg"):
        curves["trained, live"] = read("guided-live", "frontier-cfg").rows
    text = drawn("Guidance on one adapter, and one that learnt it", curves)
    (HERE / "conditioning-methods.svg").write_text(text, encoding="utf-8")
    dropouts = {"0 %": "dropout-0", "5 %": "dropout-5", "10 %": "plain", "20 %": "dropout-20", "50 %": "dropout-50"}
    if all(has(arm, FEW) for arm in dropouts.values()):
        rows = {f"dropout {share}": read(arm, FEW).rows for share, arm in dropouts.items()}
        (HERE / "conditioning-dropout.svg").write_text(drawn("Caption dropout in training", rows), encoding="utf-8")
    strip(read("plain", "frontier-cfg"), WORK / "plain" / "frontier-cfg", HERE / "conditioning-strip.png")


def drawn(title: str, curves: Mapping[str, Sequence[Row]]) -> str:
    """Adherence over diversity, a line for each; hollow where pictures fall apart, beside the nearest of all."""
    marked = iter(frontiers.far_apart([row for rows in curves.values() for row in rows]))
    curves = {name: [next(marked) for _ in rows] for name, rows in curves.items()}
    means = {name: [row.point.means for row in rows] for name, rows in curves.items()}
    flat = [point for points in means.values() for point in points]
    ends = [(min(values), max(values)) for values in zip(*flat, strict=True)]
    (low_y, high_y), (low_x, high_x) = [(low - 0.06 * (high - low), high + 0.06 * (high - low)) for low, high in ends]

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = LEFT + (point[1] - low_x) / (high_x - low_x) * (WIDTH - LEFT - 150)
        return x, HEIGHT - BOTTOM - (point[0] - low_y) / (high_y - low_y) * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="11"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="10" y="20" font-size="13" font-weight="bold">{title}</text>',
    ]
    for value in (low_x, (low_x + high_x) / 2, high_x):
        x, _ = place((low_y, value))
        parts.append(f'<text x="{x:.0f}" y="{HEIGHT - 26}" text-anchor="middle" fill="#555">{value:.3f}</text>')
    for value in (low_y, (low_y + high_y) / 2, high_y):
        _, y = place((value, low_x))
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 150}" y1="{y:.0f}" y2="{y:.0f}" stroke="#e3e6ee"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.0f}" text-anchor="end" fill="#555">{value:.3f}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 8}" fill="#555">unlikeness of pictures of one caption →</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 6}" fill="#555">↑ ROUGE-L of what a reader reads with the caption</text>')
    for number, (name, rows) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        order = sorted(rows, key=lambda row: row.setting.guidance_scale)
        points = [place(row.point.means) for row in order]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5" opacity="0.7"/>')
        for (x, y), row in zip(points, order, strict=True):
            fill = "white" if row.is_far else colour
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}"/>')
            scale = f"{row.setting.guidance_scale:g}"
            across, down = ((5, -5), (5, 11), (-5, -5), (-5, 11))[number % 4]  # so that neighbours' numbers stay apart
            anchor = "start" if across > 0 else "end"
            parts.append(
                f'<text x="{x + across:.1f}" y="{y + down:.1f}" font-size="9" text-anchor="{anchor}" '
                f'fill="{colour}">{scale}</text>'
            )
        y = TOP + 18 * number
        parts.append(f'<circle cx="{WIDTH - 138}" cy="{y}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - 128}" y="{y + 4}">{name}</text>')
    return "".join([*parts, "</svg>\n"])


def strip(found: Frontier, folder: Path, to: Path) -> None:
    """Pictures of the first caption along the front: a row for each scale."""
    _, scales, count = STRIP
    side, gap = 128, 6
    image = Image.new("RGB", (60 + count * (side + gap), 26 + len(scales) * (side + gap)), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    pen.text((4, 4), f"{found.captions[0]}", fill="black", font=font)
    for line, scale in enumerate(scales):
        row = at_scale(found, scale)
        top = 26 + line * (side + gap)
        pen.text((8, top + side / 2 - 8), f"{scale:g}", fill="black", font=font)
        for column, one in enumerate(kept(folder / row.folder)[:count]):
            with Image.open(one["path"]) as picture:
                shown = picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            image.paste(shown, (60 + column * (side + gap), top))
    image.save(to, optimize=True)


if __name__ == "__main__":
    main()
