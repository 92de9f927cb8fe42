"""The pictures of a run, in the rows and columns the page shows them in."""

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.evaluation import unseen
from pipeline.evaluation.previews import GRID, INDEX, kept, spread

NUM_ROWS = 12
MAX_SIDE = 512  # pixels: larger pictures are shrunk for the page


def unseen_rows(samples: Path) -> list[dict[str, str]]:
    """Base, tuned and truth, side by side, for captions spread over the unseen set."""
    folders = [samples / name for name in (unseen.BASE, unseen.TUNED, unseen.TRUTH)]
    if not all((path / INDEX).is_file() for path in folders):
        return []
    rows = list(zip(*map(kept, folders), strict=True))
    return [
        {
            "caption": base["prompt"],
            "base": embedded(base["path"]),
            "tuned": embedded(tuned["path"]),
            "truth": embedded(truth["path"]),
        }
        for base, tuned, truth in spread(rows, NUM_ROWS)
    ]


def preview_rows(samples: Path) -> list[dict[str, Any]]:
    """The previews, a row per prompt: base first, then every step that was drawn."""
    folders = [samples / "base", *sorted(samples.glob("step-*"))]
    columns = [(title(path.name), kept(path)) for path in folders if (path / INDEX).is_file()]
    # Prompts may have changed when the run went on: only what shows the same shots as the base is comparable.
    columns = [(name, shots) for name, shots in columns if list(map(_shot, shots)) == list(map(_shot, columns[0][1]))]
    if len(columns) < 2:
        return []
    rows = []
    for number, shot in enumerate(columns[0][1]):
        cells = [(name, embedded(shots[number]["path"])) for name, shots in columns]
        rows.append({"caption": shot["prompt"], "cells": cells})
    return rows


def grid(samples: Path) -> dict[str, Any] | None:
    """One prompt at several strengths (columns) and guidance scales (rows); None where it was not drawn."""
    if not (samples / GRID / INDEX).is_file():
        return None
    shots = kept(samples / GRID)
    strengths = list(dict.fromkeys(shot["strength"] for shot in shots))
    scales = list(dict.fromkeys(shot["guidance_scale"] for shot in shots))
    cells = {(shot["guidance_scale"], shot["strength"]): embedded(shot["path"]) for shot in shots}
    return {
        "prompt": shots[0]["prompt"],
        "strengths": strengths,
        "rows": [{"guidance": scale, "cells": [cells[scale, strength] for strength in strengths]} for scale in scales],
    }


def data_rows(shown: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Training pictures with their captions."""
    return [{"caption": " · ".join(row["captions"]), "picture": embedded(row["path"])} for row in shown]


def _shot(row: dict[str, Any]) -> tuple[str, int]:
    return row["prompt"], row["seed"]


def title(folder: str) -> str:
    """'step-000200' as people read it."""
    return f"step {int(folder.removeprefix('step-'))}" if folder.startswith("step-") else folder


def embedded(path: Path) -> str:
    """A picture as a data URL, shrunk to MAX_SIDE if larger."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
