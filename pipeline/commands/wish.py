"""A point of a run's frontier, by the wish that it fulfils."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.adapter.names import FILE
from pipeline.commands.places import beside
from pipeline.errors import ConfigError
from pipeline.evaluation.frontier import found
from pipeline.evaluation.frontier.choice import Wish
from pipeline.evaluation.frontier.found import Setting
from pipeline.hashing import digest_of_file


def wished(folder: Path, wish: Wish) -> tuple[Path, Setting]:
    """The folder of the adapter, and how to draw with it.

    Raises ConfigError where nothing was measured, or only of an adapter that is not there any more.
    """
    traced = beside(folder, found.FOLDER)
    frontier = found.read(traced)
    if frontier is None:
        raise ConfigError(f"--wish {wish} needs a measured frontier: run `python -m pipeline frontier {folder}` first.")
    setting = frontier.rows[frontier.chosen[wish]].setting
    place = folder if setting.step is None else folder / f"checkpoint-{setting.step}"
    if not (place / FILE).is_file() or digest_of_file(place / FILE) != setting.adapter:
        raise ConfigError(
            f"--wish {wish}: the frontier in {traced} is of another adapter than {place / FILE}; trace it again."
        )
    return place, setting


def require_alone(wish: Wish, given: Mapping[str, Any]) -> None:
    """Raise ConfigError if something is given that the wish decides."""
    if named := [f"--{name}" for name, value in given.items() if value is not None]:
        raise ConfigError(f"--wish {wish} decides {', '.join(named)}; leave it or them out.")
