"""After a run: its pictures ranked by what their captions do for the model, for a wrong caption makes it worse.

Of 24 captions exchanged among 240 this finds 22 in its first 24; the loss alone finds 11, its change from the base 5
(docs/decisions.md).
"""

import contextlib
import json
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.console import columns, quiet_libraries, say, tell
from pipeline.data import cache as caches
from pipeline.data.manifest import Example
from pipeline.errors import ConfigError
from pipeline.progress import Progress
from pipeline.run import build, preflight
from pipeline.run.context import RunContext, prepare
from pipeline.run.encode import encode
from pipeline.run.reopened import reopen

AT_ONCE = 32  # examples between two words of progress


@dataclass(frozen=True)
class Suspect:
    """One picture, and what the adapter makes of it."""

    example: Example
    held_out: bool
    loss: float  # mean squared error over the noise levels
    without: float  # the same without the caption

    @property
    def gain(self) -> float:
        """By how much the loss is higher without the caption, as a share; below 0 for one that makes it worse."""
        return self.without / self.loss - 1

    @property
    def text(self) -> str:
        """In a few words."""
        effect = f"lowers its loss by {self.gain:.0%}" if self.gain >= 0 else f"raises its loss by {-self.gain:.0%}"
        return f"the caption {effect}" + ", held out" * self.held_out

    @property
    def record(self) -> dict[str, Any]:
        """For programs."""
        numbers = {"loss": self.loss, "loss_without_caption": self.without, "caption_gain": self.gain}
        return {"name": self.example.name, "caption": self.example.caption, "held_out": self.held_out, **numbers}


def suspects(folder: Path, *, limit: int, page: Path | None, as_json: bool) -> None:
    """Say which captions help least, the least first, `limit` of them; of all for programs.

    Raises ConfigError for what is no finished run, or whose data are no longer those it was trained on.
    """
    if limit < 1:
        raise ConfigError(f"--limit {limit} must be at least 1.")
    if page is not None and page.is_dir():
        raise ConfigError(f"--page {page} is a folder; give the name of a file.")
    if page is not None:
        preflight.require_writable(page.absolute().parent, "--page")
    found = find(folder)
    if page is not None:
        from pipeline.report import suspects_page

        tiles = [(suspect.example, suspect.text) for suspect in found[:limit]]
        tell(f"Page  {suspects_page.write(folder.resolve().name, tiles, len(found), page)}")
    if as_json:
        say(json.dumps([suspect.record for suspect in found], indent=1, ensure_ascii=False))
        return
    rows = [(suspect.example.name, f"{suspect.text}: {suspect.example.caption!r}") for suspect in found[:limit]]
    say("\n".join([f"The {len(rows)} of {len(found)} pictures whose captions help least", *columns(rows)]))


def find(folder: Path) -> list[Suspect]:
    """Every picture of a finished run, the one whose caption helps least first.

    Raises ConfigError and DataError as `reopen` does.
    """
    command, data = reopen(folder)
    held_out = data.held_out.examples if data.held_out is not None else ()
    examples = (*data.manifest.distinct().examples, *held_out)
    with quiet_libraries():
        context = prepare(command.run, data, folder, yielding=command.yielding)
        try:
            encode(context, examples)
            found = measured(context, examples, {example.id for example in held_out})
        finally:
            context.engine.release()
    return sorted(found, key=lambda suspect: suspect.gain)


def measured(context: RunContext, examples: Sequence[Example], held_out: Set[str]) -> list[Suspect]:
    """What the adapter makes of each example with its caption and without, at equal noise levels with equal noise."""
    models = build.load_models(context)
    evaluator, denoiser = build.loss_evaluator(context, models), models.denoiser
    captioned = build.unguided(context, models)
    found, seen = list[Suspect](), 0
    with denoiser.adapted.evaluating(), contextlib.closing(Progress(len(examples), "picture")) as progress:
        for some in caches.batches(examples, AT_ONCE):
            rows = build.as_measured(context, some)
            loss = evaluator.errors(denoiser, rows, captioned=captioned).mean(1).tolist()
            without = evaluator.errors(denoiser, rows, [None] * len(rows)).mean(1).tolist()
            found += [
                Suspect(example, example.id in held_out, *losses)
                for example, *losses in zip(some, loss, without, strict=True)
                if losses[0] > 0
            ]
            seen += len(some)
            progress.update(seen)
    if len(found) < seen:
        tell(f"Left out: {seen - len(found)} pictures of whose masks the centre view shows nothing")
    return found
