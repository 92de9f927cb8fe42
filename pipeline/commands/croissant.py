"""Writing the Croissant description of a dataset's folder, and letting MLCommons' own reader look at it."""

import json
import logging
from importlib.metadata import version
from pathlib import Path

from pipeline import atomic
from pipeline.audit.audit import Audit
from pipeline.config import Run
from pipeline.data import croissant, folder
from pipeline.data.options import DataOptions
from pipeline.data.rows import Findings
from pipeline.errors import ConfigError, DataError, printable
from pipeline.run.preflight import card_of, dataset_name

EXTRA = 'pip install "t2i-lora[croissant]"'


def require_folder(options: DataOptions) -> Path:
    """The one folder of a dataset. Raises ConfigError where it is anything else."""
    if options.source:
        raise ConfigError("--croissant describes one folder of images; check the folder of each [[source]] on its own.")
    if options.dataset_name is not None:
        raise ConfigError(
            f"--croissant describes a folder of images, and {options.dataset_name} is a table; the Hub describes its "
            "own at https://huggingface.co/api/datasets/NAME/croissant."
        )
    if options.train_data_dir is None:
        raise ConfigError("--croissant writes into the dataset's folder; name it.")
    return Path(options.train_data_dir)


def require_names(options: DataOptions) -> None:
    """Raise ConfigError for pictures whose names are no text, which neither table nor description can hold.

    Raises it too for what is no folder of a dataset, and for one that somebody else described.
    """
    place, findings = require_folder(options), Findings()
    _require_ours(place)
    contents = folder.look(place, "--train_data_dir", options.caption_extensions, findings)
    if options.masked_loss:
        folder.take_masks(contents, findings)
    odd = [printable(name) for name in contents.images if printable(name) != name]
    if odd:
        raise ConfigError(
            f"--croissant describes pictures by their names, and these are not UTF-8: {', '.join(odd)}; rename them."
        )


def write(found: Audit, run: Run) -> str:
    """Describe a dataset in its own folder, with what its card declares; returns where, and what is to be said of it.

    Raises ConfigError for what is no folder or cannot be written, DataError where mlcroissant finds it wrong.
    """
    place = require_folder(run.data)
    if found.manifest is None or any(one.weight == "error" for one in found.findings):
        return "is not written: training refuses this dataset"
    card = card_of(run.share, dataset_name(run.data), place, found.manifest)
    name = place.resolve().name if card is None or card.pretty_name is None else card.pretty_name
    pictures = croissant.pictures_in(found.manifest, place)
    table, path = croissant.table_of(pictures), place / croissant.FILE
    described = croissant.description(name, card, pictures, table, place)
    try:
        atomic.write_text(place / croissant.TABLE, table)
        atomic.write_text(path, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ConfigError(f"--croissant: {place} cannot be written: {error.strerror}.") from error
    return f"{path}, {validated(path)}" + ("" if card is not None else "; without a license, for there is no card")


def _require_ours(place: Path) -> None:
    """Raise ConfigError for a description of the dataset that somebody else wrote: theirs may say more."""
    path, table = place / croissant.FILE, place / croissant.TABLE
    is_ours = path.is_file() and croissant.TABLE in path.read_text(encoding="utf-8", errors="replace")
    if not is_ours and (theirs := [found for found in (path, table) if found.exists()]):
        named = " and ".join(map(str, theirs))
        raise ConfigError(f"--croissant: t2i-lora did not write {named}; move that away, or leave the flag out.")


def validated(path: Path) -> str:
    """What mlcroissant says of a description. Raises DataError where it finds it wrong."""
    try:
        import mlcroissant
    except ImportError:
        return f"not validated: that needs mlcroissant ({EXTRA})"
    reader, logger = f"mlcroissant {version('mlcroissant')}", logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of what only the publisher knows: a date, a version
    try:
        mlcroissant.Dataset(path)
    except mlcroissant.ValidationError as error:
        raise DataError(f"{path}: {reader} finds it wrong: {error}") from error
    finally:
        logger.setLevel(level)
    return f"found valid by {reader}"
