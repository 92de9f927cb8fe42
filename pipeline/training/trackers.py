"""Trackers beside metrics.jsonl: what accelerate speaks to, several at once. None of them can end or change a run."""

import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline import atomic
from pipeline.console import tell
from pipeline.errors import ConfigError, reason
from pipeline.evaluation.results import Evaluation
from pipeline.training.tracker_names import KINDS
from pipeline.training.tracking import StepRow

PROJECT = "t2i-lora"
FILE = "trackers.json"  # in the logging folder: by what names a resumed run finds itself again
MAX_PICTURES = 8  # of a set of previews, a tracker is given


class Trackers:
    """The trackers of a run; an error of one is said once, and then that one is left out."""

    def __init__(self, opened: Mapping[str, Any]) -> None:
        self._opened = dict(opened)
        self._shown: set[Path] = set()

    def write(self, row: StepRow) -> None:
        """Log the numbers of a step, and of the validation after it."""
        values = {**vars(row)}
        for title, measured in (("validation", row.validation), ("class", row.of_class)):
            values |= {f"{title}/{name}": value for name, value in (vars(measured) if measured else {}).items()}
        numbers = {name: value for name, value in values.items() if isinstance(value, float)}
        self._each(lambda name, tracker: tracker.log(numbers, step=row.step))

    def show(self, step: int, folder: Path, title: str = "previews") -> None:
        """Log the first pictures that lie in a folder, once, where the tracker takes pictures."""
        if folder in self._shown or not any(KINDS[name].pictures for name in self._opened):
            return
        self._shown.add(folder)
        pictures = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))[:MAX_PICTURES]]
        self._each(lambda name, tracker: _show(name, tracker, step, {title: pictures}))

    def measured(self, step: int, evaluation: Evaluation) -> None:
        """Log what was measured on the test set: 'adapted/kid, EfficientNet-Lite0 ...' and its like."""
        numbers = {
            f"{which}/{name}": estimate.value
            for which, estimates in evaluation.sets.items()
            for name, estimate in estimates.items()
        }
        self._each(lambda name, tracker: tracker.log(numbers, step=step))

    def close(self) -> None:
        """Let each write what it still holds."""
        self._each(lambda name, tracker: tracker.finish())
        self._opened.clear()

    def _each(self, work: Callable[[str, Any], None]) -> None:
        for name, tracker in list(self._opened.items()):
            try:
                work(name, tracker)
            except Exception as error:  # a tracker is an extra: nothing it does may cost the run
                tell(f"{name}: {error}; logging there stops, the run goes on")
                del self._opened[name]


def _show(name: str, tracker: Any, step: int, titled: Mapping[str, Sequence[Image.Image]]) -> None:
    import numpy as np

    ((title, pictures),) = titled.items()
    arrays = [np.asarray(picture) for picture in pictures]
    match KINDS[name].pictures:
        case "batch" if len({array.shape for array in arrays}) == 1:
            tracker.log_images({title: np.stack(arrays)}, step=step, dataformats="NHWC")
        case "list":
            tracker.log_images({title: list(pictures)}, step=step)
        case "each":
            for number, picture in enumerate(pictures):
                tracker.log_images({f"{title}/{number}": picture if name == "aim" else arrays[number]}, step=step)


def open_all(
    names: Sequence[str],
    start: Callable[..., Any],
    folder: Path,
    *,
    title: str,
    first_step: int,
    options: Mapping[str, Any],
) -> Trackers:
    """Open trackers for the run of a title that goes on from `first_step`, and tell them its options.

    `start(name, run_name, **more)` starts one of accelerate's; `folder` is for what is kept on this machine. Raises
    ConfigError for one that cannot be opened: a login is missing, say.
    """
    if not names:
        return Trackers({})
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / FILE
    ids = json.loads(place.read_text(encoding="utf-8")) if first_step and place.is_file() else {}
    ids.setdefault("run", uuid.uuid4().hex[:12])
    opened: dict[str, Any] = {}
    for name in names:
        try:
            run_name, more = _words_of(name, title, folder, first_step, ids)
            opened[name] = start(name, run_name, **more)
            if first_step == 0 or name != "tensorboard":  # which would keep them once more
                opened[name].store_init_configuration({key: _plain(value) for key, value in options.items()})
        except (Exception, SystemExit) as error:
            Trackers(opened).close()
            raise ConfigError(
                f"--report_to {name} cannot be opened ({reason(error)}). Log in there first, or leave it out."
            ) from error
    if "mlflow" in opened:
        ids["mlflow"] = opened["mlflow"].tracker.info.run_id
    atomic.write_text(place, json.dumps(ids))
    return Trackers(opened)


def _words_of(name: str, title: str, folder: Path, first_step: int, ids: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """What accelerate calls the run's name, which is the project for most, and the rest that a tracker is given."""
    match name:
        case "tensorboard":
            return "", {"logging_dir": folder, "purge_step": first_step + 1}
        case "wandb":
            project = os.environ.get("WANDB_PROJECT", PROJECT)
            more = {"settings": {"console": "off"}}  # ours stays ours
            return project, {"name": title, "dir": str(folder), "id": ids["run"], "resume": "allow", **more}
        case "trackio":
            return PROJECT, {"name": title, "resume": "allow" if first_step else "never"}
        case "mlflow":
            return PROJECT, {"run_name": title, "run_id": ids.get("mlflow")}
        case "swanlab":
            return PROJECT, {"experiment_name": title, "logdir": str(folder / "swanlab")}
        case "aim":
            return title, {"logging_dir": str(folder)}
        case "clearml":
            return PROJECT, {"task_name": title}
        case "dvclive":
            return PROJECT, {"dir": str(folder / "dvclive"), "resume": first_step > 0}
        case _:
            return PROJECT, {}


def _plain(value: Any) -> Any:
    """A value that every tracker can keep."""
    return value if isinstance(value, bool | int | float | str) else str(value)
