"""What a Python program asks for, checked as if it had been typed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import config, run_toml
from pipeline.config import KINDS, SECRETS, Run
from pipeline.errors import ConfigError

WHERE = "Run"


def as_typed(run: Run) -> Run:
    """The run as the command line would have made it; a path from ~ gets the home folder.

    Raises ConfigError for what no flag takes: another type, a word that is no choice, a value out of bounds.
    """
    if not isinstance(run, Run):
        raise ConfigError(f"train() takes a Run, as in train(Run().replaced(...)), given {type(run).__name__}.")
    given = {name: _builtin(value) for name, value in run.flat().items()}
    defaults = Run().flat()
    if unset := sorted(name for name, value in given.items() if value is None and defaults[name] is not None):
        raise ConfigError(f"{', '.join(unset)}: None is no value; leave it out for the default.")
    if not all(isinstance(source, Mapping) for source in given[run_toml.TABLES]):
        raise ConfigError("source takes a list of tables, one for each source, as in source=[{'train_data_dir': 'a'}].")
    apart = {name: given.pop(name) for name in (*SECRETS, run_toml.TABLES)}
    try:
        table = run_toml.parse(run_toml.text_of(given), WHERE)
    except TypeError as error:
        raise ConfigError(f"An option holds what no run.toml can hold: {error}.") from error
    if refusals := run_toml.problems(table, KINDS, Path(WHERE)):
        raise ConfigError("\n".join(refusals))
    typed = config.taken(table, WHERE).replaced(**apart).expanded()
    if problems := typed.problems():
        raise ConfigError("\n".join(problems))
    return typed


def _builtin(value: Any) -> Any:
    """A number of numpy's or torch's as Python's own."""
    return value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value
