"""result.json: what is known of a finished run and its adapter."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import atomic, records
from pipeline.adapter.verify import VerificationResult
from pipeline.errors import CheckpointError

FILE = "result.json"


@dataclass(frozen=True)
class Sides:
    """The shorter sides of a dataset's pictures, in pixels."""

    smallest: int
    median: int
    largest: int


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """The dataset of a run in numbers."""

    examples: int  # to train on
    held_out: int
    captions: int
    distinct_captions: int
    words: float  # of a caption, in the median
    side: Sides
    skipped: int  # left out, as was asked
    copies: int  # pictures that exist more than once
    sizes: dict[str, int] = field(default_factory=dict)  # at which they are shown, and how many
    enlarged: int = 0  # pictures that are scaled up for it
    cropped: float = 0.0  # share of all their pixels that is cut off
    balance: str | None = None  # what the examples of each group count
    class_images: int = 0  # that are trained on beside them
    class_drawn: int = 0  # of these, by the base
    sources: dict[str, int] = field(default_factory=dict)  # of several, the examples of each in an epoch


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run leaves beside its adapter; the measurements on a test set are in evaluation.json."""

    verification: VerificationResult
    kept_step: int  # whose weights were exported
    rank: int  # the largest
    alpha: float  # the commonest
    comfyui: str | None  # path of the file for it within the folder, where it needs one
    data: DataFacts
    seconds: dict[str, float]  # of the last session, by phase
    peak_memory: int | None  # bytes of the GPU

    def write(self, folder: Path) -> None:
        """Write result.json."""
        atomic.write_text(folder / FILE, json.dumps(records.to_json(self), indent=2, allow_nan=False) + "\n")


def read(folder: Path) -> RunResult:
    """What a run has left. Raises CheckpointError for a folder without a finished run, or with a damaged file."""
    if not (folder / FILE).is_file():
        raise CheckpointError(f"{folder} holds no finished run ({FILE} is missing).")
    return records.read(RunResult, folder / FILE)
