"""What an uneven dataset does to the rarer group, and what --balance does about it: writes docs/fairness.json and .svg.

    python docs/make_fairness.py PLAIN BALANCED

PLAIN and BALANCED are output folders of runs on one dataset, the second with --balance. In each, `fairness` was asked
for a column and neutral prompts, and with --to OUT/fairness-slots for matched captions. Without folders the figure is
drawn again from the numbers.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from pipeline.evaluation.fairness import record
from pipeline.evaluation.fairness.parity import Side
from pipeline.evaluation.fairness.record import Fairness

HERE = Path(__file__).parent
SLOTS = "fairness-slots"
COLOURS = {"small": "#c2307f", "large": "#0f8fa8"}
PANELS = {  # title, what it is of, and the ends of the axis
    "group_read": ("Its size is seen", "48 matched captions, % of pictures", (0.4, 1.0)),
    "top1": ("Its subject is recognised", "110 captions of each, % of pictures", (0.4, 1.0)),
    "kid": ("Distance to true pictures", "110 of each, KID by starter-judge, lower is better", (0.0, 0.42)),
    "unasked": ("Drawn where no size is named", "240 pictures, % of each size", (0.0, 1.0)),
}
WIDTH, HEIGHT, TOP, LEFT = 250, 190, 74, 46
BETWEEN = 48  # rows
MODELS = {"base": "base", "plain": "adapter", "balanced": "with --balance"}


def main() -> None:
    """Collect the numbers, where folders are given, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="OUT")
    folders = parser.parse_args().folders
    if folders:
        found = collected(dict(zip(("plain", "balanced"), folders, strict=True)))
        (HERE / "fairness.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    found = json.loads((HERE / "fairness.json").read_text(encoding="utf-8"))
    (HERE / "fairness.svg").write_text(drawn(found), encoding="utf-8")


def collected(folders: dict[str, Path]) -> dict[str, Any]:
    """Every measure of every run, as its file has it but for the prompts."""
    found: dict[str, Any] = {"trained": {}}
    for name, folder in folders.items():
        for kind, place in (("column", folder / record.FOLDER), ("slots", folder / SLOTS)):
            one = record.read(place)
            assert one is not None, f"{place} holds no numbers"
            found["trained"] = {group: facts.num_trained for group, facts in one.groups.items()}
            found.setdefault(kind, {})[name] = measures(one)
    return found


def measures(one: Fairness) -> dict[str, Any]:
    """The measures of a run by name and extractor, and what it draws unasked."""
    found: dict[str, Any] = {
        f"{each.metric}, {each.extractor}": {
            which: side(part)
            for which, part in (("base", each.base), ("adapted", each.adapted), ("change", each.change))
        }
        for each in one.parities
    }
    drawn_unasked = one.representation
    if drawn_unasked is not None and drawn_unasked.base.distance and drawn_unasked.adapted.distance:
        sides = {"base": drawn_unasked.base, "adapted": drawn_unasked.adapted}
        found["unasked"] = {
            which: {
                "groups": {name: vars(part) for name, part in shares.groups.items()},
                "distance": vars(shares.distance),
                "unread": shares.num_unread,
            }
            for which, shares in sides.items()
        }
    return found


def side(part: Side) -> dict[str, Any]:
    """Groups and gap."""
    groups = {name: vars(one) for name, one in part.groups.items()}
    return {"groups": groups, "worst": part.worst, "gap": vars(part.gap)}


def panel(found: dict[str, Any], metric: str) -> dict[str, dict[str, dict[str, float]]]:
    """For each model the groups of a measure."""
    runs = found["slots" if metric == "group_read" else "column"]
    own = {name: next(some[key] for key in some if key.split(",")[0] == metric) for name, some in runs.items()}
    return {
        "base": own["plain"]["base"]["groups"],
        **{name: measured["adapted"]["groups"] for name, measured in own.items()},
    }


def drawn(found: dict[str, Any]) -> str:
    """A cell for each measure, in it the groups side by side for each model."""
    width, height = 2 * WIDTH + 20, TOP + 2 * (HEIGHT + BETWEEN) - 18
    trained = found["trained"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="11"><rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="10" y="20" font-size="13" font-weight="bold">Trained on {trained["large"]} large and '
        f"{trained['small']} small things</text>",
    ]
    for place, (name, colour) in enumerate(COLOURS.items()):
        x = 14 + 150 * place
        parts.append(f'<circle cx="{x}" cy="40" r="4" fill="{colour}"/><text x="{x + 9}" y="44">{name} things</text>')
    for place, metric in enumerate(PANELS):
        corner = ((place % 2) * (WIDTH + 8), TOP + (place // 2) * (HEIGHT + BETWEEN))
        parts.append(cell(panel(found, metric), metric, corner))
    parts.append("<desc>Lines are 95 % intervals that hold for both groups at once.</desc></svg>")
    return "\n".join(parts) + "\n"


def cell(models: dict[str, dict[str, dict[str, float]]], metric: str, corner: tuple[float, float]) -> str:
    """One measure."""
    title, of, (low, high) = PANELS[metric]
    x0, y0 = corner
    left, right, top, bottom = x0 + LEFT, x0 + WIDTH, y0 + 22, y0 + HEIGHT

    def at(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    parts = [
        f'<text x="{x0 + 12}" y="{y0 - 4}" font-weight="bold">{title}</text>',
        f'<text x="{x0 + 12}" y="{y0 + 10}" fill="#555" font-size="10">{of}</text>',
        f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" fill="none" stroke="#ddd"/>',
    ]
    for value in (low, (low + high) / 2, high):
        label = f"{value:.2f}" if metric == "kid" else f"{value:.0%}"
        parts.append(
            f'<text x="{left - 5}" y="{at(value) + 4:.1f}" fill="#555" text-anchor="end" font-size="10">{label}</text>'
            f'<line x1="{left}" x2="{right}" y1="{at(value):.1f}" y2="{at(value):.1f}" stroke="#eee"/>'
        )
    for place, (model, label) in enumerate(MODELS.items()):
        middle = left + (place + 0.5) * (right - left) / len(MODELS)
        parts.append(f'<text x="{middle:.1f}" y="{bottom + 15}" text-anchor="middle">{label}</text>')
        for shift, (group, colour) in zip((-11, 11), COLOURS.items(), strict=True):
            one, x = models[model][group], middle + shift
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{at(one["low"]):.1f}" y2="{at(one["high"]):.1f}" '
                f'stroke="{colour}" stroke-width="5" opacity="0.35"/>'
                f'<circle cx="{x:.1f}" cy="{at(one["value"]):.1f}" r="4" fill="{colour}"/>'
            )
    return "".join(parts)


if __name__ == "__main__":
    main()
