"""frontier.json: what was drawn in which ways, what came of it, and which ways lie on the front."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline import atomic, records
from pipeline.evaluation.adapter_hash import hash_of
from pipeline.evaluation.frontier.points import Point
from pipeline.evaluation.statistics import Interval

FOLDER, FILE = "frontier", "frontier.json"  # of an output folder, and within
FAR = 2.0  # times the least KID, from where pictures fall apart


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way of drawing."""

    method: str  # as --method calls it
    guidance: dict[str, Any]  # its options, by the flags' names
    guidance_scale: float
    num_inference_steps: int
    scale: float  # of the adapter
    adapter: str  # a hash of its file
    step: int | None = None  # of a checkpoint; None: what the run published

    @property
    def title(self) -> str:
        """In a few words."""
        parts = [f"{self.method} {self.guidance_scale:g}"]
        parts += [f"adapter {self.scale:g}"] if self.scale != 1 else []
        parts += [f"step {self.step}"] if self.step is not None else []
        return ", ".join([*parts, f"{self.num_inference_steps} steps"])


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of a setting. Intervals are over captions, and wide, for captions differ much: settings are paired."""

    setting: Setting
    folder: str  # of its pictures, within that of the frontier
    captions: int  # that were drawn
    is_beaten: bool  # another setting follows captions better and is more diverse, beyond chance: no more was drawn
    is_far: bool = False  # from true pictures, by KID: noise is diverse too
    adherence: Interval
    diversity: Interval
    vendi: Interval  # of the pictures of one caption
    kid: Interval | None  # to true pictures, where there are some
    values: tuple[tuple[float, float], ...]  # adherence and diversity of each caption

    @property
    def point(self) -> Point:
        """For the mathematics."""
        both = torch.tensor(self.values, dtype=torch.float64)
        return Point(both[:, 0], both[:, 1])


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the axes are."""

    adherence: str  # a metric's name in the table
    diversity: str
    adherence_by: str  # extractors
    diversity_by: str


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """All that was found."""

    captions: tuple[str, ...]
    num_images: int
    first_seed: int
    measured: Measured
    rows: tuple[Row, ...]
    front: tuple[int, ...]  # places in rows, from the most diverse to the most faithful
    chosen: dict[str, int]  # faithful, balanced, diverse: places in rows
    area: Interval  # mean adherence along the front

    @property
    def whole(self) -> tuple[int, ...]:
        """The places of the settings that may lie on the front: all captions were drawn, and well."""
        return tuple(place for place, row in enumerate(self.rows) if not (row.is_beaten or row.is_far))

    @property
    def points(self) -> dict[str, Row]:
        """The three that are named."""
        return {wish: self.rows[place] for wish, place in self.chosen.items()}

    def write(self, folder: Path) -> None:
        """Write frontier.json."""
        atomic.write_text(folder / FILE, json.dumps(records.to_json(self), indent=1, allow_nan=False) + "\n")


def read(folder: Path) -> Frontier | None:
    """What was found of a run; None where nobody looked. Raises CheckpointError for a file that is damaged."""
    return records.read(Frontier, folder / FILE) if (folder / FILE).is_file() else None


def of_adapter(folder: Path) -> Frontier | None:
    """What was found of the very adapter that lies in an output folder; None where nobody looked at that.

    Raises CheckpointError as `read` does.
    """
    found = read(folder / FOLDER)
    if found is None:
        return None
    own = hash_of(folder)
    return found if all(row.setting.adapter == own for row in found.points.values()) else None


def nearest_kid(rows: Sequence[Row]) -> Interval | None:
    """The least KID to true pictures, of the ways that were not beaten; None where none was measured."""
    kids = [row.kid for row in rows if row.kid is not None and not row.is_beaten]
    return min(kids, key=lambda kid: kid.value, default=None)


def far_apart(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows, with those marked whose KID is twice that of the nearest to true pictures, beyond both intervals.

    Pictures that fall apart are most unlike of all, and must not count as diverse. Ways that were beaten are no measure
    of it, for they drew fewer: so the nearest of the others is never far.
    """
    nearest = nearest_kid(rows)
    if nearest is None:
        return tuple(rows)
    limit = max(nearest.high, FAR * nearest.value)
    return tuple(
        dataclasses.replace(row, is_far=row.kid is not None and not row.is_beaten and row.kid.low > limit)
        for row in rows
    )


def table(rows: Sequence[Row]) -> list[list[str]]:
    """As CSV: a line for each setting, the first with the names."""
    names = ["adherence", "diversity", "vendi", "kid"]
    ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    head = [
        "method",
        "guidance_scale",
        "adapter_scale",
        "step",
        "num_inference_steps",
        "captions",
        "beaten",
        "far",
        "folder",
    ]
    lines = [[*head, *ends]]
    for row in rows:
        one = row.setting
        step = "" if one.step is None else str(one.step)
        facts = [one.method, f"{one.guidance_scale:g}", f"{one.scale:g}", step, str(one.num_inference_steps)]
        numbers = [
            "" if found is None else repr(value)
            for found in (getattr(row, name) for name in names)
            for value in ((found.value, found.low, found.high) if found is not None else ("", "", ""))
        ]
        lines.append([*facts, str(row.captions), str(int(row.is_beaten)), str(int(row.is_far)), row.folder, *numbers])
    return lines
