"""Grids of adapters, checkpoints and scales: the same prompts and seeds in every column, the base in the first."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import atomic
from pipeline.adapter.names import FILE
from pipeline.commands.evaluation.options import EvaluateOptions
from pipeline.commands.evaluation.subject import Subject, beside, subject_of
from pipeline.commands.evaluation.wanted import lines_of
from pipeline.commands.sample import run_of
from pipeline.console import quiet_libraries, say, tell
from pipeline.errors import ConfigError
from pipeline.evaluation.picture_sets import INDEX
from pipeline.evaluation.resumable import draw_missing
from pipeline.evaluation.sample import Sampler, SampleRequest
from pipeline.hashing import digest_of_file
from pipeline.report import compare_page

BASE = "pretrained_model_name_or_path"
FOLDER = "compare"  # of the first output folder
DRAWN = "drawn.json"  # what decides every picture


@dataclass(frozen=True)
class Column:
    """An adapter at a scale; without a file the base."""

    title: str
    file: Path | None
    scale: float

    @property
    def facts(self) -> dict[str, Any]:
        """What decides its pictures, beside what all columns share."""
        return {"title": self.title, "adapter": digest_of_file(self.file) if self.file else None, "scale": self.scale}


def compare(
    adapters: list[Path],
    options: EvaluateOptions,
    *,
    prompts: Path,
    scales: Sequence[float],
    checkpoints: bool,
) -> None:
    """Draw the grid and make its page; stopped at any time, the same command goes on.

    Raises ConfigError, CheckpointError or DataError for what cannot be drawn.
    """
    options.require_sound()
    lines = lines_of(prompts, "--prompts")
    requests = [SampleRequest(text, options.seed + number) for text in lines for number in range(options.num_images)]
    columns = columns_of(adapters, scales, checkpoints=checkpoints)
    folder = options.to or beside(adapters[0], FOLDER)
    with quiet_libraries():
        subject = subject_of(adapters[0], options)
        try:
            subject.engine.on_main(lambda: claim(folder, subject, columns, requests))
            draw(folder, subject, columns, requests)
            is_main = subject.engine.is_main
            subject.engine.close()
        finally:
            subject.engine.release()
    if is_main:
        titles = [column.title for column in columns]
        page = compare_page.write(folder, adapters[0].resolve().name, titles, requests)
        say(f"Page  {page}")


def columns_of(adapters: Sequence[Path], scales: Sequence[float], *, checkpoints: bool) -> list[Column]:
    """The base, then every adapter at every scale. Raises ConfigError for what holds none, all of them at once."""
    places = [place for adapter in adapters for place in (_with_checkpoints(adapter) if checkpoints else [adapter])]
    lacking = [str(place) for place in places if not (place / FILE).is_file()]
    if lacking:
        raise ConfigError(f"{', '.join(lacking)}: no {FILE} there; give output folders of runs, or checkpoints.")
    bases = {str(run_of(place).get(BASE, "the starter base")): place for place in reversed(places)}
    if len(bases) > 1:
        each = ", ".join(f"{place} is for {base}" for base, place in bases.items())
        raise ConfigError(f"These adapters have different base models, so no grid can hold them: {each}.")
    if not all(-100 <= scale <= 100 for scale in scales):
        raise ConfigError(f"--scale {', '.join(f'{scale:g}' for scale in scales)} must lie between -100 and 100.")
    several = len(adapters) > 1
    found = [Column("base", None, 0.0)]
    for place in places:
        own = place.name.startswith("checkpoint-")
        name = f"{place.parent.resolve().name}, {place.name}" if own and several else place.resolve().name
        found += [Column(name if len(scales) == 1 else f"{name}, scale {s:g}", place / FILE, s) for s in scales]
    return found


def _with_checkpoints(adapter: Path) -> list[Path]:
    """The checkpoints of a run, the earliest first, and what it published."""
    found = [path for path in adapter.glob("checkpoint-*") if (path / FILE).is_file()]
    return [*sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-"))), adapter]


def claim(folder: Path, subject: Subject, columns: Sequence[Column], requests: Sequence[SampleRequest]) -> None:
    """Begin a folder, or go on with one of the very same pictures. Raises ConfigError for one that holds others."""
    shared = {name: value for name, value in subject.facts.items() if name not in ("adapter", "scale")}
    wanted = [[request.prompt, request.seed] for request in requests]
    facts = {**shared, "requests": wanted, "columns": [column.facts for column in columns]}
    path = folder / DRAWN
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if other := sorted(name for name in {**before, **facts} if before.get(name) != facts.get(name)):
            raise ConfigError(f"{folder} holds a grid with other {', '.join(other)}; give another folder with --to.")
    elif folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds other files; give a new folder with --to.")
    else:
        atomic.write_text(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    for number in range(len(columns)):
        rows = [{"file": f"{i:04d}.png", "prompt": r.prompt, "seed": r.seed} for i, r in enumerate(requests)]
        index = compare_page.column(folder, number) / INDEX
        atomic.write_text(index, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def draw(folder: Path, subject: Subject, columns: Sequence[Column], requests: Sequence[SampleRequest]) -> None:
    """Draw what is not there yet, with one model that is given one adapter after the other."""
    model = Model(subject)
    for number, column in enumerate(columns):
        place = compare_page.column(folder, number)
        paths = [place / f"{i:04d}.png" for i in range(len(requests))]
        if subject.engine.is_main and not all(path.is_file() for path in paths):
            tell(f"Drawing {column.title}")
        sampler = functools.partial(model.sampler, column)
        work = functools.partial(draw_missing, requests, paths, sampler, subject.settings.size, subject.engine)
        subject.engine.together(work)


class Model:
    """A pipeline that is loaded when something is to be drawn, and has one adapter at a time."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._file: Path | None = None

    @functools.cached_property
    def _pipe(self) -> Any:
        return self._subject.loaded(with_adapter=False)

    def sampler(self, column: Column) -> Sampler:
        """What draws a column, by the stock loader."""
        if self._file is not None and column.file != self._file:
            self._pipe.unload_lora_weights()
            self._file = None
        if column.file is not None:
            if self._file is None:
                self._pipe.load_lora_weights(column.file.parent, weight_name=column.file.name, adapter_name="lora")
                self._file = column.file
            self._pipe.set_adapters("lora", column.scale)
        return self._subject.around(self._pipe)
