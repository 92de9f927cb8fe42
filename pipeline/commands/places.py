"""Where the verbs put what they make of a run."""

import itertools
from pathlib import Path


def beside(place: Path, name: str) -> Path:
    """A folder of this name in an output folder; for a checkpoint, which holds nothing else, beside it."""
    own = place.resolve()
    is_checkpoint = own.name.startswith("checkpoint-") and not (own / "run.toml").is_file()
    return own.parent / f"{name}-{own.name}" if is_checkpoint else place / name


def unused(folder: Path) -> Path:
    """This folder, or the first of the same name with a number that holds nothing yet: a second call writes beside."""
    for number in itertools.count(1):
        place = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if not place.exists() or (place.is_dir() and not any(place.iterdir())):
            return place
    raise AssertionError("numbers do not end")
