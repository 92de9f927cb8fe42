"""Folders of drawn pictures: claimed by all that decides them, drawn with one model, gone on with after a stop."""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import atomic
from pipeline.commands.evaluation.subject import Subject
from pipeline.commands.sample import set_scale
from pipeline.console import tell
from pipeline.errors import ConfigError
from pipeline.evaluation.picture_sets import INDEX
from pipeline.evaluation.resumable import draw_missing
from pipeline.evaluation.sample import Sampler, SampleRequest, SampleSettings
from pipeline.families import truncation
from pipeline.hashing import digest_of_file
from pipeline.notes import Note, grouped

DRAWN = "drawn.json"  # what decides every picture


@dataclass(frozen=True)
class Column:
    """An adapter at a scale; without a file the base."""

    title: str
    file: Path | None = None
    scale: float = 1.0
    settings: SampleSettings | None = None  # None: the subject's

    @property
    def facts(self) -> dict[str, Any]:
        """What decides its pictures, beside what all columns share."""
        return {"adapter": digest_of_file(self.file) if self.file else None, "scale": self.scale}


def claim(folder: Path, facts: Mapping[str, Any], what: str) -> None:
    """Begin a folder, or go on with one of the very same pictures.

    Raises ConfigError for one that holds other pictures, or files of others.
    """
    before = recorded(folder)
    if before is not None:
        if other := sorted(name for name in {**before, **facts} if before.get(name) != facts.get(name)):
            raise ConfigError(
                f"{folder} holds {what} with other {', '.join(other)}; give another folder with --to, or remove it."
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds other files; give a new folder with --to.")
    atomic.write_text(folder / DRAWN, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def recorded(folder: Path) -> dict[str, Any] | None:
    """What decides the pictures of a folder; None where none were begun. Raises ConfigError for a damaged record."""
    path = folder / DRAWN
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}); remove {folder} and draw again.") from error
    return found


class Drawer:
    """Draws with one pipeline, loaded when it is first needed, that is given one adapter after the other."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._file: Path | None = None
        self._read: set[str] = set()
        self.cut: list[Note] = []  # prompts whose ends were not read

    def tell_cut(self, prompts: Iterable[str]) -> None:
        """Say of each prompt, once, what of it is not read."""
        new = set(prompts) - self._read
        self._read |= new
        found = truncation.cut(self._subject.family, sorted(new))
        self.cut += found
        for line in grouped(found):
            tell(f"Note  {line}")

    def draw(self, place: Path, column: Column, requests: Sequence[SampleRequest]) -> None:
        """Draw what a folder lacks, each process its share."""
        paths = [place / f"{number:06d}.png" for number in range(len(requests))]
        engine, size = self._subject.engine, self._subject.settings.size
        if engine.is_main:
            rows = [
                {"file": path.name, "prompt": request.prompt, "seed": request.seed}
                for path, request in zip(paths, requests, strict=True)
            ]
            self.tell_cut(request.prompt for request in requests)
            atomic.write_text(place / INDEX, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
            if not all(path.is_file() for path in paths):
                tell(f"Drawing {len(paths)} picture{'s' * (len(paths) != 1)}: {column.title}")
        sampler = functools.partial(self._sampler, column)
        engine.together(functools.partial(draw_missing, requests, paths, sampler, size, engine))

    @functools.cached_property
    def _pipe(self) -> Any:
        return self._subject.pipeline()

    def _sampler(self, column: Column) -> Sampler:
        if self._file not in (None, column.file):
            self._pipe.unload_lora_weights()
            self._file = None
        if column.file is not None:
            if self._file is None:
                self._pipe.load_lora_weights(column.file.parent, weight_name=column.file.name, adapter_name="lora")
                self._file = column.file
            set_scale(self._pipe, column.scale)
        return self._subject.sampler(self._pipe, column.settings)
