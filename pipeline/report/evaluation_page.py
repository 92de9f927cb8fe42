"""The page of an evaluation: what was found in words, the pictures, and every number with what it does not see."""

from pathlib import Path
from typing import Any

from pipeline import atomic
from pipeline.evaluation import results
from pipeline.evaluation.picture_sets import INDEX, kept
from pipeline.evaluation.previews import spread
from pipeline.evaluation.results import Evaluation
from pipeline.report.pictures import embedded
from pipeline.report.rendering import template

FILE = "report.html"
NUM_CAPTIONS = 24  # shown
COLUMNS = {"base": "base", "adapted": "adapter", "change": "change", "reference": "reference", "against": "against"}
SETS = ("base", "adapted", "reference")  # folders


def write(folder: Path, name: str, found: Evaluation, origin: str, notes: list[str]) -> Path:
    """Make the page beside the pictures."""
    shown = {key: label for key, label in COLUMNS.items() if found.sets.get(key)}
    rows = results.rows(found)
    judges = [
        {"name": judge or "no extractor", "rows": [row for row in rows if row.extractor == judge]}
        for judge in dict.fromkeys(row.extractor for row in rows)
    ]
    said = sentences(found)
    text = template("evaluation.html").render(
        name=name,
        headline=said[0] if said else "What was drawn, and what is seen in it.",
        lead=[*said[1:], f"{found.n} captions: {origin}."],
        rows=pictures(folder),
        num_captions=found.n,
        judges=judges,
        columns=shown,
        notes=notes,
    )
    path = folder / FILE
    atomic.write_text(path, text)
    return path


def pictures(folder: Path) -> list[dict[str, Any]]:
    """The first picture of captions spread over all, with each set that has one."""
    there = [(COLUMNS[name], kept(folder / name)) for name in SETS if (folder / name / INDEX).is_file()]
    found: dict[str, dict[str, Any]] = {}
    for name, rows in there:
        for row in rows:
            cells = found.setdefault(row["prompt"], {})
            cells.setdefault(name, row["path"])
    whole = [(caption, cells) for caption, cells in found.items() if COLUMNS["base"] in cells]
    return [
        {"caption": caption, "cells": [{"name": name, "picture": embedded(path)} for name, path in cells.items()]}
        for caption, cells in spread(whole, NUM_CAPTIONS)
    ]


def sentences(found: Evaluation) -> list[str]:
    """What the adapter changed, by each extractor that takes distances: what is sure, and what may be chance."""
    said = []
    for judge in found.extractors.values():
        change, base = found.found("change", "kid", judge), found.found("base", "kid", judge)
        if change is None or base is None:
            continue
        share = change.over(abs(base.value)).text("{:+.0%}") if base.value else change.text("{:+.3f}")
        if change.high < 0:
            said.append(f"For {judge} the adapter is nearer to the reference than the base is: KID {share}.")
        elif change.low > 0:
            said.append(f"For {judge} the adapter is farther from the reference than the base is: KID {share}.")
        else:
            said.append(f"For {judge} it may be chance which of adapter and base is nearer to the reference: {share}.")
    for judge in found.extractors.values():
        change = found.found("change", "clip_margin", judge)
        if change is not None and change.low * change.high > 0:
            moved = "nearer to their captions" if change.value > 0 else "farther from their captions"
            said.append(f"For {judge} its pictures are {moved}: a margin of {change.text('{:+.3f}')}.")
    return said
