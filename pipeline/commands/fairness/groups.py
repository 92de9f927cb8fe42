"""The groups: from a column of the data or the slots of a template, and what is drawn of each."""

import collections
import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import shipped
from pipeline.commands.evaluation.wanted import Wanted, lines_of, wanted_of
from pipeline.commands.fairness.options import FairnessOptions
from pipeline.commands.sample import folder_of_run
from pipeline.data.groups import group_in
from pipeline.data.manifest import Example
from pipeline.data.options import DataOptions
from pipeline.data.reading import Gathered, OnRow, gather
from pipeline.data.rows import Findings, Row
from pipeline.data.sources import gather_sources, lenient
from pipeline.errors import ConfigError, UserError, listed
from pipeline.evaluation.fairness.measuring import FEWEST, Grouping
from pipeline.evaluation.fairness.naming import all_named_in, named_in, unreadable
from pipeline.evaluation.fairness.record import Group
from pipeline.evaluation.fairness.template import filled, slots_of
from pipeline.evaluation.previews import spread
from pipeline.evaluation.sample import SampleRequest
from pipeline.run.preflight import RunData
from pipeline.run.reopened import reopen

MOST = 50  # groups: the gap is corrected for all 1,225 pairs of so many
FIRST_NEUTRAL = 500_000  # beyond --seed, of the first neutral prompt
Cells = Mapping[str, Mapping[str, Any]]  # of each picture's row, by its name
Gather = Callable[[Findings, OnRow], Gathered]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The groups, what is drawn of them, and the prompts that name none."""

    by: str
    is_column: bool
    wanted: Wanted
    grouping: Grouping
    given: dict[str, int]  # captions that there are of each group, also of those that are too few
    trained: dict[str, int] | None  # pictures trained on; None where that is not known
    prompts: tuple[str, ...]  # neutral
    neutral: tuple[SampleRequest, ...]
    notes: tuple[str, ...]

    @property
    def groups(self) -> dict[str, Group]:
        """All of them in numbers."""
        drawn = collections.Counter(self.grouping.names[number] for number in self.grouping.of_caption)
        return {
            name: Group(
                num_captions=drawn[name],
                num_given=number,
                num_trained=self.trained.get(name, 0) if self.trained is not None else None,
            )
            for name, number in self.given.items()
        }


def chosen(place: Path, options: FairnessOptions) -> Chosen:
    """The groups that the options name. Raises ConfigError or DataError with all that is wrong with them."""
    found = _of_column(place, options) if options.column is not None else _of_template(place, options)
    everyone = list(found.given)
    counted = everyone if found.prompts else found.grouping.names
    problems = list[str]()
    if len(counted) > MOST:
        problems.append(
            f"{found.by} has {len(counted)} groups. Past {MOST} the intervals, corrected for all, say nothing: join "
            "some groups."
        )
    if found.prompts:
        problems += unreadable(everyone)
    for prompt in found.prompts:
        if named := all_named_in(prompt, everyone):
            problems.append(f"The neutral prompt {prompt!r} names {', '.join(named)}; it must name no group.")
    if options.target == "data" and not found.trained:
        problems.append("--target data: which groups the training data hold is not known.")
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def _of_column(place: Path, options: FairnessOptions) -> Chosen:
    assert options.column is not None
    column, wanted = options.column, wanted_of(place, options.of_evaluation)
    command, data = reopen(folder_of_run(place))
    cells = cells_of(_source(command.run.data, options.reference))
    own = [cells.get(example.name, {}) for example in wanted.reference]
    _require_column(column, own, wanted)
    group_of = [group_in(some, column) or "" for some in own]
    given = collections.Counter(group_of)
    names = tuple(sorted(name for name, number in given.items() if number >= FEWEST))
    trained = _in_training(command.run.data, data, column)
    few = tuple(sorted((given.keys() | (trained or {}).keys()) - set(names)))
    if len(names) < 2:
        raise ConfigError(
            f"Two groups with {FEWEST} captions each are the least to compare; give more with --reference. In "
            f"{column!r} {wanted.origin} has:\n{listed([f'{number} {name}' for name, number in given.most_common()])}"
        )
    number = min(*(given[name] for name in names), options.limit or len(group_of))
    if number < FEWEST:
        raise ConfigError(f"--limit {number} must be at least {FEWEST}: fewer captions of a group say nothing.")
    places = sorted(
        place for name in names for place in spread([i for i, own in enumerate(group_of) if own == name], number)
    )
    grouping = Grouping(
        names=names, others=few, of_caption=tuple(names.index(group_of[place]) for place in places), places=None
    )
    notes = [f"{', '.join(few)}: left out, fewer than {FEWEST} captions."] if few else []
    return Chosen(
        by=column,
        is_column=True,
        wanted=dataclasses.replace(
            wanted,
            captions=tuple(wanted.captions[place] for place in places),
            reference=tuple(wanted.reference[place] for place in places),
        ),
        grouping=grouping,
        given={name: given[name] for name in (*names, *few)},
        trained=trained,
        notes=tuple(notes),
        **_neutral(options),
    )


def _of_template(place: Path, options: FairnessOptions) -> Chosen:
    assert options.template is not None
    by = options.by or slots_of(options.template)[0]
    names = options.slots[by]
    rows = filled(options.template, options.slots, by)
    captions = tuple(caption for caption, _, _ in rows)
    number = len(rows) // len(names)
    if len(names) < 2 or number * options.num_images < FEWEST:
        raise ConfigError(
            f"Two groups with {FEWEST} pictures each are the least to compare: --values {by} has {len(names)}, each "
            f"drawn {number} x {options.num_images} times; give more values or --num_images."
        )
    shifts = tuple(place * options.num_images for _, _, place in rows)
    notes = list[str]()
    if 1 < number < FEWEST:
        notes.append(
            f"Intervals are over the {number} combinations of the other slots, so they are wide: give more values."
        )
    try:
        trained = _named_in_training(place, names)
    except UserError as error:
        trained = None
        notes.append(f"Which groups the training data hold is not known: {error}")
    return Chosen(
        by=by,
        is_column=False,
        wanted=Wanted(captions, options.num_images, options.seed, (), False, f"{options.template!r}", shifts),
        grouping=Grouping(
            names=names,
            others=(),
            of_caption=tuple(group for _, group, _ in rows),
            places=tuple(place for _, _, place in rows),
        ),
        given=dict.fromkeys(names, number),
        trained=trained,
        notes=tuple(notes),
        **_neutral(options),
    )


def _in_training(options: DataOptions, data: RunData, column: str) -> dict[str, int] | None:
    """How many training pictures are of each group; None where the data have no such column."""
    cells = cells_of(lambda findings, told: gather_sources(lenient(options), findings, told))
    found = (group_in(cells.get(example.name, {}), column) for example in data.manifest.distinct().examples)
    return dict(collections.Counter(group for group in found if group is not None)) or None


def _named_in_training(place: Path, names: Sequence[str]) -> dict[str, int] | None:
    """How many training pictures have a caption that names each group; None where none does."""
    _, data = reopen(folder_of_run(place))
    found = (named_in(example.caption, names) for example in data.manifest.distinct().examples)
    return dict(collections.Counter(name for name in found if name is not None)) or None


def _neutral(options: FairnessOptions) -> dict[str, Any]:
    """The prompts that name no group, and each of their pictures."""
    lines = lines_of(options.neutral, "--neutral") if options.neutral is not None else ()
    prompts = tuple(dict.fromkeys([*lines, *(" ".join(text.split()) for text in options.neutral_prompt or [])]))
    texts = [text for text in prompts for _ in range(options.num_neutral)]
    first = FIRST_NEUTRAL + options.seed
    requests = tuple(SampleRequest(text, first + number) for number, text in enumerate(texts))
    return {"prompts": prompts, "neutral": requests}


def _source(data: DataOptions, reference: Path | None) -> Gather:
    """Where `wanted_of` takes captions and reference from."""
    own_test = shipped.TEST if not (data.place or data.source) else None
    given = Path(data.evaluation_data_dir) if data.evaluation_data_dir is not None else own_test
    folder = reference or given
    if folder is None:
        return lambda findings, told: gather_sources(lenient(data), findings, told)
    alike = dataclasses.replace(data, source=(), balance=None) if reference is None else DataOptions()
    return lambda findings, told: gather(folder, lenient(alike), findings, on_row=told)


def cells_of(gathering: Gather) -> Cells:
    """The cells of the row of each picture, by the picture's name."""
    found: dict[str, Mapping[str, Any]] = {}

    def told(row: Row, example: Example | str) -> None:
        if isinstance(example, Example) and isinstance(row.description, Mapping):
            found[example.name] = row.description

    gathering(Findings(), told)
    return found


def _require_column(column: str, own: Sequence[Mapping[str, Any]], wanted: Wanted) -> None:
    """Raise ConfigError for a column that is not there, or is empty for some pictures."""
    there = sorted({name for cells in own for name in cells})
    if column not in there:
        near = difflib.get_close_matches(column, there, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"--column {column} is no column of {wanted.origin} (there is {', '.join(there) or 'no metadata'}){hint}"
        )
    empty = [
        example.name for example, cells in zip(wanted.reference, own, strict=True) if group_in(cells, column) is None
    ]
    if empty:
        raise ConfigError(f"--column {column} is empty or no single value for {len(empty)} pictures:\n{listed(empty)}")
