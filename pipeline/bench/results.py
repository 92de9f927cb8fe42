"""What a bench found on one machine, as a file of JSON: rows of named numbers, each of which may not be measured."""

import dataclasses
import datetime
import json
import os
import platform
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline import atomic, records
from pipeline.console import columns, say

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate")
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Row:
    """One line of a table: what it is about, and the numbers found; several for one name are those of the rounds."""

    about: dict[str, str]
    found: dict[str, tuple[float, ...]]  # what is not in it was not measured
    note: str = ""  # why, where something was not


@dataclass(frozen=True)
class Found:
    """One run of a bench."""

    bench: str
    date: str
    command: str
    machine: str  # the card, or the processor
    system: str
    versions: dict[str, str]
    setting: dict[str, str]  # what all rows have in common
    rows: tuple[Row, ...]
    part: str = ""  # of the bench, where it was not the whole

    def with_rows(self, rows: list[Row]) -> "Found":
        """The same with other rows."""
        return dataclasses.replace(self, rows=tuple(rows))


Keep = Callable[[Found], None]  # called with all that was found so far


def started(bench: str, command: str, device: str, setting: dict[str, str], part: str = "") -> Found:
    """A run of a bench, or of a part of it, that has found nothing yet; `device` is what it computes on."""
    return Found(
        bench=bench,
        date=f"{datetime.date.today():%Y-%m-%d}",
        command=command,
        machine=machine_name(device),
        system=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        versions={name: found for name in LIBRARIES if (found := _version(name))},
        setting=setting,
        rows=(),
        part=part,
    )


def machine_name(device: str) -> str:
    """What people call it: the GPU's name, or the processor's."""
    if device == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        info = ""
    named = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    return f"CPU: {named[1].strip() if named else platform.processor() or platform.machine()}"


def write(found: Found, folder: Path) -> Path:
    """Keep it as FOLDER/<bench>-<machine>[-<part>].json: what the same machine found before is replaced."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{found.bench} {found.machine} {found.part}".lower()).strip("-")
    path = folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, json.dumps(records.to_json(found), indent=1) + "\n")
    return path


def read_all(folder: Path, pattern: str = "*.json") -> list[Found]:
    """What lies in a folder, by file name. Raises CheckpointError for a file that is none of ours."""
    return [records.read(Found, path) for path in sorted(folder.glob(pattern))]


def median(values: tuple[float, ...]) -> float:
    """The middle one of what the rounds found."""
    return float(statistics.median(values))


def cell(values: tuple[float, ...] | None, digits: int | None = None) -> str:
    """Numbers as a table shows them: the median, with the lowest and the highest where there are several.

    Without `digits` as many as a number of its size needs.
    """
    if not values:
        return NOT_MEASURED
    digits = _digits(values) if digits is None else digits
    middle = f"{median(values):,.{digits}f}"
    return middle if len(values) == 1 else f"{middle} [{min(values):,.{digits}f}, {max(values):,.{digits}f}]"


def show(found: Found) -> None:
    """The rows at the terminal."""
    say(f"{found.bench} on {found.machine}: {', '.join(f'{name} {value}' for name, value in found.setting.items())}")
    names = list(dict.fromkeys(name for row in found.rows for name in row.found))
    about = list(dict.fromkeys(name for row in found.rows for name in row.about))
    lines = [[*about, *(name.replace("_", " ") for name in names), ""]]
    for row in found.rows:
        numbers = [cell(row.found.get(name)) for name in names]
        lines.append([*(row.about.get(name, "") for name in about), *numbers, row.note])
    for line in columns(lines):
        say(line)


def _digits(values: tuple[float, ...]) -> int:
    size = abs(median(values))
    return 3 if size < 1 else 2 if size < 100 else 0


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
