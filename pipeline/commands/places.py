"""Where the verbs put what they make of a run."""

from pathlib import Path


def beside(place: Path, name: str) -> Path:
    """A folder of this name in an output folder; for a checkpoint, which holds nothing else, beside it."""
    own = place.resolve()
    is_checkpoint = own.name.startswith("checkpoint-") and not (own / "run.toml").is_file()
    return own.parent / f"{name}-{own.name}" if is_checkpoint else place / name
