"""The pictures of a run, in the rows and columns the page shows them in."""

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.evaluation import png_metadata, test_set
from pipeline.evaluation.picture_sets import INDEX, kept
from pipeline.evaluation.previews import GRID, spread

NUM_ROWS = 12
MAX_SIDE = 512  # pixels: larger pictures are shrunk for the page
QUALITY = 90  # of 100: what is lost then is not seen


def test_rows(samples: Path) -> list[dict[str, str]]:
    """Base, adapted and reference, side by side, for captions spread over the unseen set."""
    folders = [samples / name for name in (test_set.BASE, test_set.ADAPTED, test_set.REFERENCE)]
    if not all((path / INDEX).is_file() for path in folders):
        return []
    rows = list(zip(*map(kept, folders), strict=True))
    return [
        {
            "caption": base["prompt"],
            "base": embedded(base["path"]),
            "adapted": embedded(adapted["path"]),
            "reference": embedded(reference["path"]),
        }
        for base, adapted, reference in spread(rows, NUM_ROWS)
    ]


def preview_rows(samples: Path) -> list[dict[str, Any]]:
    """The previews, a row per prompt: base first, then every step that was drawn."""
    folders = [samples / "base", *sorted(samples.glob("step-*"))]
    columns = [(title(path.name), kept(path)) for path in folders if (path / INDEX).is_file()]
    # Prompts and guidance may have changed when the run went on: only what was asked as of the base is comparable.
    columns = [
        (name, requests)
        for name, requests in columns
        if list(map(_request, requests)) == list(map(_request, columns[0][1]))
    ]
    if len(columns) < 2:
        return []
    rows = []
    for number, request in enumerate(columns[0][1]):
        cells = [(name, embedded(requests[number]["path"])) for name, requests in columns]
        rows.append({"caption": request["prompt"], "cells": cells})
    return rows


def grid(samples: Path) -> dict[str, Any] | None:
    """One prompt at several scales of the adapter (columns) and guidance scales (rows); None where it was not drawn."""
    if not (samples / GRID / INDEX).is_file():
        return None
    requests = kept(samples / GRID)
    scales = list(dict.fromkeys(request["scale"] for request in requests))
    guidance_scales = list(dict.fromkeys(request["guidance_scale"] for request in requests))
    cells = {(request["guidance_scale"], request["scale"]): embedded(request["path"]) for request in requests}
    return {
        "prompt": requests[0]["prompt"],
        "scales": scales,
        "rows": [
            {"guidance": guidance, "cells": [cells[guidance, scale] for scale in scales]}
            for guidance in guidance_scales
        ],
    }


def data_rows(shown: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Training pictures with their captions."""
    return [{"caption": " · ".join(row["captions"]), "picture": embedded(row["path"])} for row in shown]


def _request(row: dict[str, Any]) -> dict[str, Any]:
    """All that decides a picture but the weights."""
    return {name: value for name, value in row.items() if name not in ("file", "path")}


def title(folder: str) -> str:
    """'step-000200' as people read it."""
    return f"step {int(folder.removeprefix('step-'))}" if folder.startswith("step-") else folder


def embedded(path: Path) -> str:
    """A picture as a data URL, without notes that somebody wrote in it.

    A small one keeps its pixels, and a PNG without notes is there as it lies; one larger than MAX_SIDE is shrunk, and
    is WebP then: as PNG it would have twenty times the bytes, on a page of dozens.
    """
    content, kind, buffer = path.read_bytes(), "png", io.BytesIO()
    with Image.open(io.BytesIO(content)) as file:
        file.load()  # a note may follow the pixels
        if max(file.size) > MAX_SIDE:
            picture, kind = file.convert("RGB"), "webp"
            picture.thumbnail((MAX_SIDE, MAX_SIDE))
            picture.save(buffer, "WEBP", quality=QUALITY)
        elif file.format != "PNG" or not png_metadata.says_no_more(file):
            file.convert("RGB").save(buffer, "PNG", optimize=True)
    shown = base64.b64encode(buffer.getvalue() or content).decode()
    return f"data:image/{kind};base64,{shown}"
