"""A finished run, opened again from its folder: its command line, and its data where they are as they were."""

import dataclasses
from pathlib import Path

from pipeline import config
from pipeline.adapter.names import FILE
from pipeline.config import Command
from pipeline.errors import ConfigError
from pipeline.run import kept_examples, preflight
from pipeline.run.output_folder import fingerprints, recorded
from pipeline.run.preflight import RunData

NO_CLASS = {  # pictures of a class are the base's own: nothing of theirs is of interest afterwards
    "with_prior_preservation": False,
    "class_data_dir": None,
    "class_prompt": None,
    "num_class_images": 100,
    "prior_loss_weight": 1.0,
}


def reopen(folder: Path, adapter: Path | None = None) -> tuple[Command, RunData]:
    """The command line of a finished run, without its class, and its data; of another adapter of it where given.

    Raises ConfigError for what is no run, or whose data are no longer those it was trained on; DataError for data that
    cannot be read.
    """
    file = folder / "run.toml"
    adapter = adapter or folder / FILE
    if missing := [str(path) for path in (file, adapter) if not path.is_file()]:
        raise ConfigError(f"There is no {' and no '.join(missing)}; give the output folder of a finished run.")
    words = ["--config", str(file), "--output_dir", str(folder), "--resume_from_checkpoint", "latest"]
    command = config.parse([*words, "--init_lora", str(adapter)])
    assert command is not None
    command = dataclasses.replace(command, run=command.run.replaced(**NO_CLASS))
    data = preflight.preflight(command.run, folder)
    before, now = recorded(folder), fingerprints(data)
    if "dataset" not in before or any(before.get(name, now[name]) != now[name] for name in now):
        changed = kept_examples.changes_since(folder, data)
        raise ConfigError(f"{folder}: the data are no longer those of the run; put them back as they were.{changed}")
    return command, data
