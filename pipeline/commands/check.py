"""A look at a dataset before it is trained on, with the flags of the training it is for."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import config, shipped
from pipeline.audit import languages
from pipeline.audit.audit import Audit, audit
from pipeline.audit.epoch import Model
from pipeline.audit.findings import MEANINGS, Finding
from pipeline.audit.of_class import ClassAudit
from pipeline.config import Run
from pipeline.console import columns, quiet_libraries, say, tell
from pipeline.errors import EXIT_DONE, EXIT_USER, ConfigError
from pipeline.families import registry
from pipeline.families.truncation import token_counts, truncated
from pipeline.run import shapes

MAX_CASES = 5  # of a finding, at the terminal


@dataclass(frozen=True)
class Captioning:
    """What writes captions for pictures without one."""

    model: str
    instruction: str | None


@dataclass(frozen=True)
class Written:
    """What is to be written beside what is said."""

    page: Path | None = None
    preview: Path | None = None
    card: Path | None = None
    croissant: bool = False

    def require_possible(self, run: Run) -> None:
        """Raise ConfigError for what can be no file, before anything is looked at."""
        for flag, path in (("page", self.page), ("card", self.card)):
            if path is not None and path.is_dir():
                raise ConfigError(f"--{flag} {path} is a folder; give the name of a file.")
        if self.croissant:
            from pipeline.commands import croissant

            croissant.require_names(run.data)


def check(
    dataset: str | None, flags: Sequence[str], wanted: Written, *, as_json: bool, captioning: Captioning | None = None
) -> int:
    """Say what is found; the exit code is 2 if training would refuse the dataset, else 0.

    Raises ConfigError for flags that training does not take, DataError where there is no dataset or a caption could not
    be written, CheckpointError for what is no model to caption with.
    """
    words = list(flags)
    if dataset is not None:
        words += ["--train_data_dir" if Path(dataset).is_dir() else "--dataset_name", dataset]
    command = config.parse(words)
    if command is None:
        return EXIT_DONE  # it asked for help
    run = command.run
    wanted.require_possible(run)
    if not (run.data.place or run.data.source):
        run = run.replaced(train_data_dir=str(shipped.TRAIN))
    data = run.data
    if captioning is not None:
        from pipeline.commands import caption

        caption.fill(data, captioning.model, captioning.instruction)
    with quiet_libraries():
        family = registry.find(run.model, data.cache_dir, weights=False)
        batch_size = run.train.examples_per_process
        possible = shapes.offered(run, family)
        lost, count = functools.partial(truncated, family), functools.partial(token_counts, family)
        refuses_cut = run.model.long_prompts == "error"
        model = Model(possible, batch_size, run.train.seed, lost, count, languages.identifier(), refuses_cut)
        found = audit(data, model, yields="validation_split" in command.yielding)
    write(found, run.replaced(caption_dropout=data.dropout_for(supports_cfg=family.supports_cfg)), wanted)
    say(json.dumps(as_record(found), indent=1, ensure_ascii=False) if as_json else as_text(found))
    return EXIT_USER if found.num_errors else EXIT_DONE


def write(found: Audit, run: Run, wanted: Written) -> None:
    """Write what is wanted of an audit, and tell where it is. Raises ConfigError where it cannot be."""
    if wanted.preview is not None:
        from pipeline.commands import preview_dataset

        kept = not run.adapter.train_text_encoder
        tell(f"Preview  {preview_dataset.write(found, run.data, wanted.preview, kept=kept)}{_undrawn(found)}")
    if wanted.page is not None:
        from pipeline.report import data_page

        tell(f"Page  {data_page.write(found, wanted.page)}")
    if wanted.card is not None:
        from pipeline.commands import data_card

        tell(f"Card  {data_card.fill(found, wanted.card)}")
    if wanted.croissant:
        from pipeline.commands import croissant

        tell(f"Croissant  {croissant.write(found, run)}")


def as_text(found: Audit) -> str:
    """An audit for a terminal."""
    rows = _rows_of(found.sizes)
    rows += [
        (column.name, ", ".join(f"{value} {number}" for value, number in list(column.counts.items())[:8]))
        for column in found.columns
    ]
    rows += [("tokens", found.tokens.text)] if found.tokens is not None else []
    lines = [f"{found.origin}: {_told(found.numbers())}", *columns(rows)]
    for one in found.findings:
        lines += ["", *finding_lines(one)]
    if found.of_class is not None:
        lines += ["", *class_lines(found.of_class)]
    if not found.all_findings:
        lines += ["", "Nothing was found that should be looked at."]
    return "\n".join(lines)


def class_lines(found: ClassAudit) -> list[str]:
    """The audit of a class for a terminal."""
    lines = [f"Pictures of the class: {_told(found.numbers())}", *columns(_rows_of(found.sizes))]
    for one in found.findings:
        lines += ["", *finding_lines(one)]
    return lines


def _told(numbers: Mapping[str, int | float]) -> str:
    return ", ".join(f"{value:g} {name}" for name, value in numbers.items() if value)


def _rows_of(sizes: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(size, f"{number} pictures") for size, number in sizes.items()]


def _undrawn(found: Audit) -> str:
    """What a preview cannot show."""
    number = len(found.of_class.pictures.to_draw) if found.of_class is not None else 0
    return f"; without {number} pictures of the class that the base has yet to draw" if number else ""


def finding_lines(one: Finding) -> list[str]:
    """A finding for a terminal: what, the first cases, what to do."""
    lines = [f"{one.weight.upper()} {one.title} ({len(one.cases)}): {MEANINGS[one.weight]}"]
    lines += [f"  {case.text}" for case in one.cases[:MAX_CASES]]
    if len(one.cases) > MAX_CASES:
        lines.append(f"  ... and {len(one.cases) - MAX_CASES} more")
    return [*lines, f"  -> {one.advice}"]


def as_record(found: Audit) -> dict[str, Any]:
    """An audit for programs, with every case."""
    return {
        "origin": found.origin,
        "numbers": found.numbers(),
        "sizes": found.sizes,
        "tokens": {"counts": found.tokens.counts, "limit": found.tokens.limit} if found.tokens is not None else None,
        "columns": {
            column.name: {"counts": column.counts, "evenness": round(column.evenness, 4)} for column in found.columns
        },
        "findings": list(map(_record_of, found.findings)),
        "class": _record_of_class(found.of_class) if found.of_class is not None else None,
    }


def _record_of_class(found: ClassAudit) -> dict[str, Any]:
    findings = list(map(_record_of, found.findings))
    return {"numbers": found.numbers(), "sizes": found.sizes, "findings": findings}


def _record_of(one: Finding) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "weight": one.weight,
        "title": one.title,
        "advice": one.advice,
        "cases": [{"text": case.text, "examples": list(case.examples)} for case in one.cases],
    }
