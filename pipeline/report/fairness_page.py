"""The page of fairness: what was found in words, the worst group beside the best, and every measure group by group."""

from pathlib import Path
from typing import Any

from pipeline import atomic
from pipeline.console import columns
from pipeline.evaluation.fairness.measuring import Grouping
from pipeline.evaluation.fairness.record import Fairness
from pipeline.evaluation.fairness.tables import GROUP_TITLES, groups, shares, tables
from pipeline.evaluation.looking import ADAPTED, BASE
from pipeline.evaluation.picture_sets import INDEX, kept
from pipeline.evaluation.previews import spread
from pipeline.report.pictures import embedded
from pipeline.report.rendering import template

FILE = "report.html"
NUM_CAPTIONS = 8  # of each of the two groups


def lines(found: Fairness) -> list[str]:
    """Every table for a terminal."""
    said = columns(
        [("", *GROUP_TITLES.values()), *([row[key] for key in ("name", *GROUP_TITLES)] for row in groups(found))]
    )
    for table in tables(found):
        titles = table["columns"]
        said += ["", f"{table['label']} ({table['by']})"]
        said += columns(
            [("", *titles.values()), *((row["name"], *(row[key] for key in titles)) for row in table["rows"])]
        )
    if (about := shares(found)) is not None:
        said += ["", f"Where no group is asked for ({about['by']})"]
        said += columns([("", "base", "adapter", "wanted")] + [tuple(row.values()) for row in about["rows"]])
        said += [about["text"]]
    return said


def write(folder: Path, name: str, found: Fairness, grouping: Grouping, *, notes: list[str]) -> Path:
    """Make the page beside the pictures."""
    all_tables = tables(found)
    text = template("fairness.html").render(
        name=name,
        headline=found.headline(),
        lead=[part for part in (found.of_change(), found.of_shares()) if part],
        advice=found.advice(),
        by=found.by,
        kind="column" if found.is_column else "slot",
        origin=found.origin,
        num_images=found.num_images,
        groups=groups(found),
        pairs=pairs(folder, found, grouping),
        is_matched=not found.is_column,
        tables=[table for table in all_tables if table["of_caption"]],
        distances=[table for table in all_tables if not table["of_caption"]],
        shares=shares(found),
        notes=notes,
    )
    path = folder / FILE
    atomic.write_text(path, text)
    return path


def pairs(folder: Path, found: Fairness, grouping: Grouping) -> list[list[dict[str, Any]]]:
    """The worst group beside the best, by the measure of the headline: captions in turn, base and adapter."""
    one = found.foremost
    if one is None:
        return []
    side = one.adapted
    rows = {which: kept(folder / which) for which in (BASE, ADAPTED) if (folder / which / INDEX).is_file()}

    def of(name: str) -> list[int]:
        number = grouping.names.index(name)
        return [place for place, group in enumerate(grouping.of_caption) if group == number]

    def cell(name: str, caption: int) -> dict[str, Any]:
        row = caption * found.num_images
        shown = {which: embedded(some[row]["path"]) for which, some in rows.items()}
        return {"group": name, "caption": rows[BASE][row]["prompt"], **shown}

    both = list(zip(of(side.worst), of(side.best), strict=True))
    return [[cell(side.worst, first), cell(side.best, second)] for first, second in spread(both, NUM_CAPTIONS)]
