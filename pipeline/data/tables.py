"""The rows of a table: a Hub dataset, a folder or file of parquet, or what `Dataset.save_to_disk` wrote."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.data.folder import extension_of
from pipeline.data.images import extensions
from pipeline.data.options import DataOptions
from pipeline.data.rows import Columns, Findings, Row, TableSource
from pipeline.errors import DataError
from pipeline.hub_ids import may_be_hub_id

READERS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json", ".json": "json", ".arrow": "arrow"}
IMAGE_COLUMNS = ("image", "file_name", "image_path", "path")  # where none is named, the first of these
PATH_TYPES, BYTES_TYPES = ("string", "large_string"), ("binary", "large_binary")


def table_rows(options: DataOptions, findings: Findings) -> Iterator[Row]:
    """The rows of --dataset_name; names of classes stand in place of their numbers."""
    import datasets

    place = Path(options.dataset_name or "")
    table = _open_table(options)
    if place.is_dir() and any(extension_of(path.name) in extensions() for path in place.iterdir()):
        findings.hints.append(f"images with a caption file each are read by --train_data_dir {place}")
    column = _image_column(table.features, options)
    if column is None:
        there = ", ".join(f"{name} ({_type_of(feature)})" for name, feature in table.features.items())
        wanted = options.image_column or "image"
        steps = "; ".join(["see --image_column", *findings.hints])
        findings.problems.append(f"no column of images called {wanted!r} (there is {there}); {steps}")
        return
    images = table.select_columns([column])
    if isinstance(table.features[column], datasets.Image):
        images = images.cast_column(column, datasets.Image(decode=False))
    media = (datasets.Image, datasets.Audio, datasets.Video)
    surplus = [name for name, feature in table.features.items() if isinstance(feature, media) or name == column]
    table = table.remove_columns(surplus)
    names = {key: feature.names for key, feature in table.features.items() if isinstance(feature, datasets.ClassLabel)}
    rows: Iterable[Columns] = table if table.features else ({} for _ in range(len(images)))
    folder = place.parent if place.is_file() else place if place.is_dir() else Path()
    for index, cells in enumerate(rows):
        description = {key: _class_name(names[key], value) if key in names else value for key, value in cells.items()}
        yield Row(f"row {index}", f"row {index}", TableSource(images, column, index, folder), description)


def _image_column(features: Any, options: DataOptions) -> str | None:
    """The column of images: the one that is named, else the first that is called as such."""
    called = IMAGE_COLUMNS if options.image_column is None else (options.image_column,)
    return next((name for name in called if _may_hold_images(features.get(name))), None)


def _may_hold_images(feature: Any) -> bool:
    """Whether a column can hold images: as such, as bytes, as {bytes, path}, or as paths."""
    import datasets

    if isinstance(feature, dict):
        return "bytes" in feature or "path" in feature
    return isinstance(feature, datasets.Image) or getattr(feature, "dtype", "") in (*PATH_TYPES, *BYTES_TYPES)


def _type_of(feature: Any) -> str:
    dtype = getattr(feature, "dtype", None)
    return type(feature).__name__ if dtype is None or type(feature).__name__ != "Value" else str(dtype)


def _class_name(names: list[str], value: int | None) -> str | None:
    """The name of a class; `datasets` writes -1 where it is unknown."""
    return None if value is None or value < 0 else names[value]


def _open_table(options: DataOptions) -> Any:
    """The train split of a dataset. Raises DataError in a sentence, whatever `datasets` says."""
    import datasets

    datasets.disable_progress_bars()
    name, config = options.dataset_name or "", options.dataset_config_name
    place = Path(name)
    try:
        if place.is_file():
            return _open_file(place, options)
        if (place / "state.json").is_file():
            return datasets.load_from_disk(name)
        if (place / "dataset_dict.json").is_file():
            splits = datasets.load_from_disk(name)
            return splits["train"] if "train" in splits else _refuse_splits(name, list(splits))
        if not place.is_dir() and "/" in name and not may_be_hub_id(name):
            raise DataError(f"--dataset_name {name} does not exist; give a folder, a file or a Hub id (user/name).")
        return datasets.load_dataset(name, config, split="train", cache_dir=options.cache_dir)
    except DataError:
        raise
    except Exception as error:  # datasets and the Hub client raise many kinds; each means the same to the user
        if "Unknown split" in str(error):
            _refuse_splits(name, datasets.get_dataset_split_names(name, config))
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = "cannot be read" if place.exists() else "is neither a folder here nor to be had from the Hub"
        raise DataError(f"--dataset_name {name} {where} ({reason}).") from error


def _open_file(path: Path, options: DataOptions) -> Any:
    """A table in one file."""
    import datasets

    reader = READERS.get(path.suffix.lower())
    if path.name.lower() in ("metadata.csv", "metadata.jsonl"):
        raise DataError(f"--dataset_name {path} describes a folder of images; give --train_data_dir {path.parent}.")
    if reader is None:
        raise DataError(f"--dataset_name {path} is a file of no kind that is read ({', '.join(READERS)}).")
    return datasets.load_dataset(reader, data_files=str(path), split="train", cache_dir=options.cache_dir)


def _refuse_splits(name: str, splits: list[str]) -> Any:
    raise DataError(
        f"--dataset_name {name} has no train split (there is {', '.join(splits)}); give the folder or the file of the "
        "split to train on, or save it as train."
    )
