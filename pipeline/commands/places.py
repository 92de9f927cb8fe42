"""Where the verbs put what they make of a run."""

from pathlib import Path


def beside(place: Path, name: str) -> Path:
    """A folder of this name in an output folder; for a checkpoint, which holds nothing else, beside it."""
    own = place.resolve()
    return own.parent / f"{name}-{own.name}" if own.name.startswith("checkpoint-") else place / name
