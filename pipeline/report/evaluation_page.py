"""The page of an evaluation: what was found in words, the pictures, and every number with what it does not see."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import atomic
from pipeline.evaluation import results
from pipeline.evaluation.looking import BASE, PictureSet
from pipeline.evaluation.picture_sets import kept
from pipeline.evaluation.previews import spread
from pipeline.evaluation.results import Evaluation
from pipeline.report.pictures import embedded
from pipeline.report.rendering import template

FILE = "report.html"
NUM_CAPTIONS = 24  # shown


def write(
    folder: Path, name: str, found: Evaluation, sets: Mapping[str, PictureSet], *, origin: str, notes: list[str]
) -> Path:
    """Make the page beside the pictures."""
    shown = {key: label for key, label in results.TITLES.items() if found.sets.get(key)}
    rows = results.rows(found)
    judges = [
        {"name": judge or "no extractor", "rows": [row for row in rows if row.extractor == judge]}
        for judge in dict.fromkeys(row.extractor for row in rows)
    ]
    text = template("evaluation.html").render(
        name=name,
        headline=headline(found),
        lead=[*sentences(found), f"{found.n} caption{'s' * (found.n != 1)}: {origin}."],
        rows=pictures(sets),
        num_captions=found.n,
        judges=judges,
        columns=shown,
        notes=notes,
    )
    path = folder / FILE
    atomic.write_text(path, text)
    return path


def pictures(sets: Mapping[str, PictureSet]) -> list[dict[str, Any]]:
    """The first picture of captions spread over all, with each set that has one."""
    found: dict[int, dict[str, Any]] = {}
    captions: dict[int, str] = {}
    for key, name in results.TITLES.items():
        if key in sets:
            for group, row in zip(sets[key].groups, kept(sets[key].folder), strict=True):
                found.setdefault(group, {}).setdefault(name, row["path"])
                captions.setdefault(group, row["prompt"])
    whole = [(captions[group], cells) for group, cells in found.items() if results.TITLES[BASE] in cells]
    return [
        {"caption": caption, "cells": [{"name": name, "picture": embedded(path)} for name, path in cells.items()]}
        for caption, cells in spread(whole, NUM_CAPTIONS)
    ]


def headline(found: Evaluation) -> str:
    """What those who see the distance to the reference agree on, in one sentence."""
    changes = [change for judge in found.extractors.values() if (change := found.found("change", "kid", judge))]
    if not changes:
        return f"What was drawn from {found.n} captions, and what is seen in it."
    nearer, farther = sum(one.high < 0 for one in changes), sum(one.low > 0 for one in changes)
    who = "the one extractor" if len(changes) == 1 else f"{len(changes)} extractors"
    if max(nearer, farther) == len(changes):
        return f"The adapter is {'nearer to' if nearer else 'farther from'} the reference than its base, for {who}."
    unsure = len(changes) - nearer - farther
    return f"Nearer to the reference than its base for {nearer} of {who}, farther for {farther}" + (
        f"; it may be chance for {unsure}." if unsure else "."
    )


def sentences(found: Evaluation) -> list[str]:
    """What changed from the base, in the numbers of each extractor."""
    said = []
    for judge in found.extractors.values():
        change, base = found.found("change", "kid", judge), found.found("base", "kid", judge)
        if change is not None and base is not None and base.value > 0:
            said.append(
                f"{judge}: the distance to the reference (KID) changed by {change.over(base.value).text('{:+.0%}')}."
            )
    for judge in found.extractors.values():
        values = [found.found(which, "clip_margin", judge) for which in ("base", "adapted", "reference")]
        before, now, true = (value.value if value else None for value in values)
        if before is not None and now is not None:
            of_true = "" if true is None else f"; the reference has {true:.3f}"
            said.append(f"{judge}: pictures had a margin of {before:.3f} to their captions, now {now:.3f}{of_true}.")
    return said
