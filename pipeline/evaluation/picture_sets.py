"""Folders of pictures: drawn or copied, kept with all that is needed to make them again, and read back."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline import atomic, records
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.evaluation import png_metadata
from pipeline.evaluation.sample import Sampler, SampleRequest

INDEX = "index.json"


@dataclass(frozen=True, kw_only=True)
class DrawSetRequest:
    """A folder of pictures to be drawn: which, with what, and with or without the adapter."""

    folder: Path
    requests: tuple[SampleRequest, ...]
    sampler: Sampler
    adapted: AdaptedModels
    with_adapter: bool
    reuse: bool = True  # equal pictures that are there already; not where they may be of other weights


def draw_set(request: DrawSetRequest) -> Path:
    """The folder of a request, with its pictures and index.json; what is there already is not drawn again."""
    rows = index_of(request.requests, request.sampler)
    if request.reuse and is_kept(request.folder, rows):
        return request.folder
    with request.sampler.folded(request.adapted) if request.with_adapter else request.adapted.disabled():
        pictures = request.sampler.draw(list(request.requests))
    keep(request.folder, pictures, rows, drawn=True)
    return request.folder


def keep(folder: Path, pictures: list[Image.Image], rows: list[dict[str, Any]], *, drawn: bool) -> None:
    """Write pictures as PNG under the names in their rows, and the rows; the folder appears complete or not at all.

    Pictures that were drawn by a model are marked as such.
    """

    def fill(temp: Path) -> None:
        for picture, row in zip(pictures, rows, strict=True):
            if drawn:
                png_metadata.save_marked(picture, temp / row["file"])
            else:
                picture.save(temp / row["file"], compress_level=png_metadata.LEVEL)
        atomic.write_text(temp / INDEX, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")

    atomic.commit_folder(folder, fill)


def index_of(requests: Sequence[SampleRequest], sampler: Sampler) -> list[dict[str, Any]]:
    """One row per picture: its file, and all that is needed to make it again."""
    settings = sampler.settings.facts
    settings |= settings.pop("size")  # width and height
    return [{"file": f"{number:04d}.png", **asdict(request), **settings} for number, request in enumerate(requests)]


def is_kept(folder: Path, rows: list[dict[str, Any]]) -> bool:
    """Whether pictures of these very rows lie in the folder already."""
    path = folder / INDEX
    return path.is_file() and records.json_in(path) == rows


def kept(folder: Path) -> list[dict[str, Any]]:
    """The index of a folder of pictures, each row with the path of its file."""
    rows = records.json_in(folder / INDEX)
    return [{**row, "path": folder / row["file"]} for row in rows]
