"""Captions for pictures that have none, by an image-to-text model, written beside them and never over anything."""

import collections
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.console import quiet_libraries, tell
from pipeline.data.manifest import Example
from pipeline.data.options import DataOptions
from pipeline.data.rows import FileSource, Findings, Row
from pipeline.data.sources import gather_sources, lenient
from pipeline.errors import CheckpointError, ConfigError, DataError, listed
from pipeline.hub_ids import may_be_hub_id
from pipeline.progress import Progress

MAX_TOKENS = 128  # of a caption
INSTRUCTION = "Describe this image in one sentence, for somebody who has to draw it."  # to a model that is talked to

Describe = Callable[[Image.Image], str]


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
        describe = load(model, instruction)
        failed = []
        with contextlib.closing(Progress(len(wanted), "caption")) as progress:
            for number, (example, path) in enumerate(wanted, start=1):
                try:
                    text = " ".join(describe(example.picture()).split())
                except Exception as error:  # a model that wants to be asked in a way of its own
                    raise CheckpointError(
                        f"--caption {model} cannot be asked about {example.name} ({_reason(error)}); see "
                        "--caption_prompt, or take another model."
                    ) from error
                if not (text and write_new(path, text)):
                    failed.append(f"{example.name}: {'the model says nothing' if not text else f'{path.name} exists'}")
                progress.update(number, text)
    if failed:
        raise DataError(f"--caption: {len(failed)} of {len(wanted)} pictures got no caption.\n{listed(failed)}")
    tell(f"Captions  {len(wanted)} written by {model}; read them before you train on them")
    return len(wanted)


def _reason(error: Exception) -> str:
    """The first line of what a library says."""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__


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


def load(name: str, instruction: str | None) -> Describe:
    """A function of a picture to what a model says of it, always the same.

    `name` is a folder or a Hub id; models that follow instructions are told what to do. Raises CheckpointError for what
    is no image-to-text model.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    local = Path(name).is_dir()
    if not (local or may_be_hub_id(name)):
        raise CheckpointError(f"--caption {name} is neither the folder of a model nor a Hub id.")
    try:
        processor: Any = AutoProcessor.from_pretrained(name, local_files_only=local)
        found: Any = AutoModelForImageTextToText.from_pretrained(
            name, dtype="auto", local_files_only=local, use_safetensors=True
        )
    except Exception as error:  # transformers and the Hub client raise many kinds; each means the same to the user
        raise CheckpointError(
            f"--caption {name} cannot be loaded as an image-to-text model: {_reason(error)}"
        ) from error
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    found.to(device).eval()
    said = instruction
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": instruction or INSTRUCTION}]
        said = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    words = {} if said is None else {"text": [said]}

    @torch.no_grad()
    def describe(picture: Image.Image) -> str:
        inputs = processor(images=[picture], **words, return_tensors="pt").to(device, found.dtype)
        tokens = found.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)[0]
        asked = inputs["input_ids"][0] if "input_ids" in inputs else tokens[:0]
        if len(asked) <= len(tokens) and torch.equal(tokens[: len(asked)], asked):
            tokens = tokens[len(asked) :]  # a decoder repeats what it was told
        return str(processor.decode(tokens, skip_special_tokens=True))

    return describe
