"""The page of a frontier: one figure to point at, three ways of drawing to take, and the pictures of each."""

import json
import shlex
from pathlib import Path
from typing import Any

from pipeline import atomic
from pipeline.evaluation.frontier.found import FOLDER, Frontier, Row, Setting, nearest_kid
from pipeline.evaluation.metrics.table import METRICS
from pipeline.evaluation.picture_sets import kept
from pipeline.geometry import Size
from pipeline.report.charts import round_ticks
from pipeline.report.pictures import embedded
from pipeline.report.plain_code import Drawn, Model, plain
from pipeline.report.rendering import template
from pipeline.sampling.options import GuidanceOptions

FILE = "report.html"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 480, 64, 24, 44, 48  # pixels
NUM_CAPTIONS = 3  # whose pictures are shown of each way
SAYS = {
    "faithful": "Follows captions best.",
    "balanced": "Nearest to both at once.",
    "diverse": "Pictures of one caption differ most.",
}


class Plane:
    """Where diversity and adherence lie in the figure."""

    def __init__(self, rows: tuple[Row, ...]) -> None:
        ends = [row.point.means for row in rows]
        self.y_ticks = round_ticks(min(y for y, _ in ends), max(y for y, _ in ends))
        self.x_ticks = round_ticks(min(x for _, x in ends), max(x for _, x in ends))

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high = self.x_ticks[0], self.x_ticks[-1]
        return LEFT + (min(max(value, low), high) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return HEIGHT - BOTTOM - (min(max(value, low), high) - low) / (high - low) * (HEIGHT - BOTTOM - TOP)


def write(folder: Path, name: str, found: Frontier, *, place: Path, model: Model, size: Size, origin: str) -> Path:
    """Make the page beside the pictures; `place` is the output folder of the run."""
    plane = Plane(found.rows)
    wishes: dict[int, list[str]] = {}
    for wish, number in found.chosen.items():
        wishes.setdefault(number, []).append(wish)
    points = [_point(folder, found, k, plane) | {"wish": wishes.get(k, [])} for k in range(len(found.rows))]
    cards = [
        {
            "wish": wish,
            "says": SAYS[wish],
            "point": points[number],
            "command": _command(folder, place, found, wish, size),
            "code": _code(place, model, found, found.rows[number].setting, size),
        }
        for wish, number in found.chosen.items()
    ]
    adherence, diversity = METRICS[found.measured.adherence], METRICS[found.measured.diversity]
    text = template("frontier.html").render(
        name=name,
        headline=_headline(found),
        lead=_lead(found, origin),
        points=points,
        data=json.dumps([{key: point[key] for key in ("title", "lines", "pictures")} for point in points]),
        front=" ".join(f"{points[number]['x']:.1f},{points[number]['y']:.1f}" for number in found.front),
        ticks={
            "x": [(plane.x(value), f"{value:.10g}") for value in plane.x_ticks],
            "y": [(plane.y(value), f"{value:.10g}") for value in plane.y_ticks],
        },
        size={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        axes={
            "x": f"{diversity.label} ({diversity.short}), by {found.measured.diversity_by}",
            "y": f"{adherence.label} ({adherence.short}), by {found.measured.adherence_by}",
        },
        blind={"x": diversity.blind, "y": adherence.blind},
        has_kid=any(row.kid is not None for row in found.rows),
        cards=cards,
        shown=found.chosen["balanced"],
        captions=found.captions[:NUM_CAPTIONS],
        num_images=found.num_images,
    )
    path = folder / FILE
    atomic.write_text(path, text)
    return path


def _command(folder: Path, place: Path, found: Frontier, wish: str, size: Size) -> str:
    """What draws the first picture of a way here; nothing where `sample` would look for the frontier elsewhere."""
    name = f"{FOLDER}-{place.resolve().name}" if place.resolve().name.startswith("checkpoint-") else FOLDER
    if not place.is_dir() or folder.name != name:
        return ""
    request = f"--prompt {shlex.quote(found.captions[0])} --seed {found.first_seed} --size {size}"
    return f"python -m pipeline sample {shlex.quote(str(place))} --wish {wish} {request}"


def _code(place: Path, model: Model, found: Frontier, setting: Setting, size: Size) -> str:
    """What draws the first picture of a way in plain diffusers."""
    folder = place if setting.step is None else place / f"checkpoint-{setting.step}"
    guidance, scale, steps = GuidanceOptions(**setting.guidance), setting.guidance_scale, setting.num_inference_steps
    return plain(folder, model, Drawn(found.captions[0], found.first_seed, guidance, scale, steps, size, setting.scale))


def _point(folder: Path, found: Frontier, place: int, plane: Plane) -> dict[str, Any]:
    """One way of drawing, as the figure and its words have it."""
    row = found.rows[place]
    adherence, diversity = row.point.means
    rows = kept(folder / row.folder)[: NUM_CAPTIONS * found.num_images]
    form = METRICS[found.measured.adherence].form
    lines = [
        f"{METRICS[found.measured.adherence].short} {row.adherence.text(form)}",
        f"{METRICS[found.measured.diversity].short} {row.diversity.text('{:.3f}')}",
        f"{row.vendi.value:.2f} of {found.num_images} pictures unlike each other (Vendi)",
    ]
    lines += [f"KID {row.kid.text('{:.3f}')}"] if row.kid is not None else []
    lines += [f"beaten after {row.captions} captions, so not drawn further"] if row.is_beaten else []
    lines += ["too far from true pictures"] if row.is_far else []
    return {
        "place": place,
        "x": plane.x(diversity),
        "y": plane.y(adherence),
        "across": (plane.x(row.diversity.low), plane.x(row.diversity.high)),
        "along": (plane.y(row.adherence.low), plane.y(row.adherence.high)),
        "title": row.setting.title,
        "kind": "beaten" if row.is_beaten else "far" if row.is_far else "front" if place in found.front else "inside",
        "hue": _hue(found, row),
        "lines": lines,
        "pictures": [embedded(one["path"]) for one in rows],
    }


def _hue(found: Frontier, row: Row) -> int:
    """From teal for the least KID to pink for the largest; teal where there is none."""
    values = [one.kid.value for one in found.rows if one.kid is not None]
    if row.kid is None or max(values) == min(values):
        return 189
    return round(189 + 138 * (row.kid.value - min(values)) / (max(values) - min(values)))


def _headline(found: Frontier) -> str:
    best = found.rows[found.chosen["balanced"]].setting
    return f"Take {best.title}: the best of both, of {len(found.rows)} ways that were tried."


def _lead(found: Frontier, origin: str) -> list[str]:
    beaten, far = (sum(getattr(row, name) for row in found.rows) for name in ("is_beaten", "is_far"))
    said = [
        f"{len(found.captions)} captions ({origin}), {found.num_images} pictures of each, from equal seeds.",
        f"Mean adherence along the front: {found.area.text('{:.3f}')} (bootstrap over captions).",
    ]
    if beaten:
        said.insert(1, f"{beaten} ways were dropped early: another one was better at both, beyond chance.")
    if far and (nearest := nearest_kid(found.rows)) is not None:
        said.append(
            f"{far} ways draw pictures that are more than twice as far from true ones as the nearest are (KID "
            f"{nearest.value:.3f}), beyond both intervals: what falls apart differs too, so they are not on the front."
        )
    return said
