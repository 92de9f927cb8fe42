"""The rows of a table: a Hub dataset, a folder or file of parquet or of WebDataset, or what `save_to_disk` wrote."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.data import webdataset
from pipeline.data.folder import extension_of
from pipeline.data.images import extensions
from pipeline.data.options import DataOptions
from pipeline.data.rows import Columns, Findings, Row, TableSource
from pipeline.errors import DataError, reason
from pipeline.hub_ids import may_be_hub_id
from pipeline.notes import Note

READERS = {
    ".tar": "webdataset",
    ".parquet": "parquet",
    ".csv": "csv",
    ".jsonl": "json",
    ".json": "json",
    ".arrow": "arrow",
}
IMAGE_COLUMNS = ("image", "file_name", "image_path", "path")  # where none is named, the first of these
KEY = "__key__"  # column of a WebDataset: what the files of an example are called
PATH_TYPES, BYTES_TYPES = ("string", "large_string"), ("binary", "large_binary")


def table_rows(options: DataOptions, findings: Findings) -> Iterator[Row]:
    """The rows of --dataset_name; names of classes stand in place of their numbers."""
    import datasets

    place = Path(options.dataset_name or "")
    if shards := webdataset.shards_of(place, options, READERS):
        yield from webdataset.rows(shards, options, findings)
        return
    table = _open_table(options)
    if place.is_dir() and any(extension_of(path.name) in extensions() for path in place.iterdir()):
        findings.hints.append(f"images with a caption file each are read by --train_data_dir {place}")
    columns = _image_columns(table.features, options)
    if not columns:
        there = ", ".join(f"{name} ({_type_of(feature)})" for name, feature in table.features.items())
        wanted = options.image_column or "image"
        steps = "; ".join(["see --image_column", *findings.hints])
        findings.problems.append(f"no column of images called {wanted!r} (there is {there}); {steps}")
        return
    mask = next((name for name in webdataset.MASKS if options.masked_loss and name in table.features), None)
    pictured = [*columns, *([mask] if mask is not None else [])]
    images = table.select_columns(pictured)
    for column in pictured:
        if isinstance(table.features[column], datasets.Image):
            images = images.cast_column(column, datasets.Image(decode=False))
    media = (datasets.Image, datasets.Audio, datasets.Video)
    surplus = [name for name, feature in table.features.items() if isinstance(feature, media) or name in pictured]
    table = table.remove_columns(surplus)
    rows: Iterable[Columns] = table if table.features else ({} for _ in range(len(images)))
    folder = place.parent if place.is_file() else place if place.is_dir() else Path()
    for index, cells in enumerate(rows):
        column = columns[0] if len(columns) == 1 else next((c for c in columns if images[index][c]), columns[0])
        name = str(cells[KEY]) if KEY in cells else f"row {index}"
        if len(columns) > 1 and sum(bool(images[index][c]) for c in columns) > 1:
            findings.notes.append(Note("several images under one key, of which the first is read", name))
        source = TableSource(images, column, index, folder)
        masked = TableSource(images, mask, index, folder) if mask is not None and images[index][mask] else None
        yield Row(name, name, source, _described(cells, table.features), mask=masked)


def _described(cells: Columns, features: Any) -> Columns:
    """The cells of a row as columns that captions are made of.

    Classes get their names. In a WebDataset the text beside an image is its caption, and what its JSON holds are
    columns.
    """
    import datasets

    found = {}
    for name, value in cells.items():
        feature = features[name]
        found[name] = _class_name(feature.names, value) if isinstance(feature, datasets.ClassLabel) else value
    if KEY not in cells:
        return found
    keys, of_json = features.get("json"), found.pop("json", None)
    if isinstance(keys, Mapping):
        described = of_json if isinstance(of_json, Mapping) else dict.fromkeys(keys)  # which this example lacks
        found = {**described, **found}
    for name in [name for name in found if name.lower() == "txt"]:
        found["text"] = found.pop(name)
    return {name: value for name, value in found.items() if name not in (KEY, "__url__")}


def _image_columns(features: Any, options: DataOptions) -> list[str]:
    """The column of images: the one that is named, else the first that is called as such; in a WebDataset those that
    are called like the extension of a kind of image."""
    import datasets

    if KEY in features and options.image_column is None:
        kinds = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        return [name for name in kinds if name not in webdataset.MASKS]
    called = IMAGE_COLUMNS if options.image_column is None else (options.image_column,)
    return [name for name in called if _may_hold_images(features.get(name))][:1]


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
        is_file = place.suffix.lower() in READERS  # by its name: no dataset of the Hub is called so
        if not place.is_dir() and (is_file or ("/" in name and not may_be_hub_id(name))):
            raise DataError(f"--dataset_name {name} does not exist; give a folder, a file or a Hub id (user/name).")
        return datasets.load_dataset(name, config, split="train", cache_dir=options.cache_dir)
    except DataError:
        raise
    except Exception as error:  # datasets and the Hub client raise many kinds; each means the same to the user
        if "Unknown split" in str(error):
            _refuse_splits(name, datasets.get_dataset_split_names(name, config))
        where = "cannot be read" if place.exists() else "is neither a folder here nor to be had from the Hub"
        step = "; see whether it is whole, and make it again" if place.exists() else ""
        raise DataError(f"--dataset_name {name} {where} ({reason(error)}){step}.") from error


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
