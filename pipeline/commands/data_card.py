"""Beginning the card of a dataset."""

from pathlib import Path

from pipeline import atomic
from pipeline.data import card
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.errors import ConfigError


def begin(name: str, dataset: Path | None) -> Path:
    """Write data_cards/NAME.md to be filled in, noting which data it is for.

    Raises ConfigError for a name that is none, a card that is there, or a folder that is not.
    """
    path = card.FOLDER / f"{name}.md"
    if path.parent != card.FOLDER or name.startswith("."):
        raise ConfigError(f"card {name!r}: give the last part of the dataset's folder or Hub id, without a slash.")
    if path.exists():
        raise ConfigError(f"{path} exists; change it by hand.")
    if dataset is not None and not dataset.is_dir():
        raise ConfigError(f"--dataset {dataset} does not exist; give a folder of images.")
    fingerprint = read_manifest(dataset, DataOptions()).fingerprint if dataset is not None else "null"
    atomic.write_text(path, card.template(name, fingerprint))
    return path
