"""Captions for pictures that have none, by an image-to-text model, written beside them and never over anything."""

import collections
import contextlib
from pathlib import Path

from pipeline.console import quiet_libraries, tell
from pipeline.data.manifest import Example
from pipeline.data.options import DataOptions
from pipeline.data.rows import FileSource, Findings, Row
from pipeline.data.sources import gather_sources, lenient
from pipeline.errors import CheckpointError, ConfigError, DataError, listed, reason
from pipeline.evaluation.extractors.readers import load
from pipeline.progress import Progress


def fill(options: DataOptions, model: str, instruction: str | None) -> int:
    """Write a caption file for each picture without a caption; returns how many were written.

    Each is written as soon as it is made, so that a stop loses nothing. Raises CheckpointError for what is no
    image-to-text model or does not take pictures so, ConfigError where no caption is missing by the options, DataError
    with every picture that got none.
    """
    if all(source.instance_prompt is not None for source in options.sources):
        raise ConfigError("--caption has nothing to write where --instance_prompt is every picture's caption.")
    wanted, elsewhere = uncaptioned(options)
    if elsewhere:
        raise DataError(
            f"--caption writes files beside pictures; the captions of {len(elsewhere)} pictures without one come from "
            f"a table, so they have to be written there.\n{listed(elsewhere)}"
        )
    if not wanted:
        return 0
    with quiet_libraries():
        describe = load(model, instruction, "--caption").describe
        failed = []
        with contextlib.closing(Progress(len(wanted), "caption")) as progress:
            for number, (example, path) in enumerate(wanted, start=1):
                try:
                    text = " ".join(describe(example.picture()).split())
                except Exception as error:  # a model that wants to be asked in a way of its own
                    raise CheckpointError(
                        f"--caption {model} cannot be asked about {example.name} ({reason(error)}); see "
                        "--caption_prompt, or take another model."
                    ) from error
                if not (text and write_new(path, text)):
                    failed.append(f"{example.name}: {'the model says nothing' if not text else f'{path.name} exists'}")
                progress.update(number, text)
    if failed:
        raise DataError(f"--caption: {len(failed)} of {len(wanted)} pictures got no caption.\n{listed(failed)}")
    tell(f"Captions  {len(wanted)} written by {model}; read them before you train on them")
    return len(wanted)


def uncaptioned(options: DataOptions) -> tuple[list[tuple[Example, Path]], list[str]]:
    """The pictures without a caption, each with the file to write; and the names of those that a table describes."""
    wanted, elsewhere = dict[Path, Example](), list[str]()
    everything, extensions = set[Path](), dict[Path, str]()

    def on_row(row: Row, example: Example | str) -> None:
        if isinstance(row.source, FileSource):
            everything.add(row.source.path)
        if isinstance(example, str) or example.caption:
            return
        if isinstance(row.description, dict) or not isinstance(row.source, FileSource):
            elsewhere.append(example.name)
            return
        extension = (example.options.caption_extension or "txt").lstrip(".")
        wanted[row.source.path] = example
        extensions[row.source.path] = f".{extension}"

    gather_sources(lenient(options), Findings(), on_row)
    stems = collections.Counter(path.with_suffix("") for path in everything)
    files = {path: path.with_suffix(extensions[path]) for path in wanted}
    for path in wanted:
        if stems[path.with_suffix("")] > 1:  # a.txt would be of a.png and of a.jpg
            files[path] = path.with_name(path.name + extensions[path])
    return [(example, files[path]) for path, example in wanted.items()], elsewhere


def write_new(path: Path, text: str) -> bool:
    """Write a caption where there is no file; whether that was so."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text + "\n")
    except FileExistsError:
        return False
    return True
