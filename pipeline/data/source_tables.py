"""The tables [[source]] of run.toml: what is wrong with their names and types."""

import difflib
from collections.abc import Mapping, Set
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from pipeline.argv import OF_OTHERS
from pipeline.data.source_options import PLACES, SourceOptions


def table_problems(table: Mapping[str, Any], of_run: Set[str]) -> list[str]:
    """What is wrong with the names and the types of a table of options, one sentence each.

    `of_run` are options that only a whole run has.
    """
    hints = {field.name: field.type for field in fields(SourceOptions)}
    problems = []
    for name, value in table.items():
        if value == "" and name in PLACES:
            problems.append(f"{name} is empty; name a folder or a dataset.")
        elif name in of_run:
            problems.append(f"{name} is one for all sources; put it above their tables.")
        elif name in OF_OTHERS:
            problems.append(f"{name} is here {OF_OTHERS[name].replace('--', '')}.")
        elif name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            problems.append(f"{name} is no option of a source" + (f"; did you mean {near[0]}?" if near else "."))
        elif not _accepts(hints[name], value):
            problems.append(f"{name} cannot be {value!r}.")
    places = {*PLACES} & table.keys()
    return problems if places else [*problems, "it names no data; give train_data_dir or dataset_name."]


def _accepts(hint: Any, value: object) -> bool:
    """Whether a field of this type takes a value; numbers that are whole are numbers too."""
    if isinstance(hint, UnionType):
        return any(_accepts(part, value) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    return type(value) is hint or (hint is float and type(value) is int)
