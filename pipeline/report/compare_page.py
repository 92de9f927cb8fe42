"""The page of a grid: a row for each prompt and seed, a column for each adapter and scale."""

from collections.abc import Sequence
from pathlib import Path

from pipeline import atomic
from pipeline.evaluation.picture_sets import kept
from pipeline.evaluation.sample import SampleRequest
from pipeline.report.pictures import embedded
from pipeline.report.rendering import template

FILE = "report.html"


def column(folder: Path, number: int) -> Path:
    """Where the pictures of a column lie."""
    return folder / f"column-{number:02d}"


def write(folder: Path, name: str, titles: Sequence[str], requests: Sequence[SampleRequest]) -> Path:
    """Make the page beside the pictures."""
    columns = [kept(column(folder, number)) for number in range(len(titles))]
    rows = [
        {"prompt": request.prompt, "seed": request.seed, "cells": [embedded(rows[i]["path"]) for rows in columns]}
        for i, request in enumerate(requests)
    ]
    headline = f"{len(requests)} pictures, {len(titles) - 1} ways."
    path = folder / FILE
    atomic.write_text(path, template("compare.html").render(name=name, headline=headline, titles=titles, rows=rows))
    return path
