"""run.toml: one key for each flag, and at the end a table [[source]] for each of several sources of data."""

import json
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.argv import ALSO_CALLED, FlagKind, is_whole
from pipeline.errors import ConfigError

TABLES = "source"  # the only key with tables


def text_of(values: Mapping[str, Any]) -> str:
    """Options as run.toml; what is None or () is left out."""
    told = {name: value for name, value in values.items() if value is not None and value != ()}
    sources = told.pop(TABLES, ())
    lines = [entry(name, value) for name, value in told.items()]
    for table in sources:
        lines += ["", f"[[{TABLES}]]", *(entry(name, value) for name, value in table.items())]
    return "\n".join(lines) + "\n"


def entry(name: str, value: Any) -> str:
    """One line: a key and its value."""
    return f"{name} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")  # which TOML wants escaped


def read(path: Path) -> dict[str, Any]:
    """The options in a file, sources as a tuple of tables. Raises ConfigError for what is no run.toml."""
    if not path.is_file():
        raise ConfigError(f"--config {path}: there is no such file.")
    try:
        return parse(path.read_text(encoding="utf-8"), f"--config {path}")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {path} is not valid TOML: {error}") from error


def parse(text: str, where: str) -> dict[str, Any]:
    """The same of a text; `where` names it. Raises ConfigError for what is no run.toml."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not valid TOML: {error}") from error
    table = _spelled(table, where)
    if "sources" in table:
        raise ConfigError(f"{where}: write a table [[{TABLES}]] for each source, at the end, in place of sources.")
    if isinstance(table.get(TABLES), dict):
        raise ConfigError(f"{where}: write [[{TABLES}]] with two brackets, once for each source.")
    nested = sorted(key for key, value in table.items() if isinstance(value, dict) or _holds_tables(value))
    if nested and nested != [TABLES]:
        name = next(key for key in nested if key != TABLES)
        raise ConfigError(f"{where} has the table [{name}]; run.toml is flat: one key per flag, and only [[{TABLES}]].")
    if TABLES in table:
        if nested != [TABLES] or not all(isinstance(value, dict) for value in table[TABLES]):
            raise ConfigError(f"{where}: {TABLES} is no key; write a table [[{TABLES}]] for each, at the end.")
        table[TABLES] = tuple(_spelled(inner, f"{where}, [[{TABLES}]]") for inner in table[TABLES])
    return table


def problems(table: Mapping[str, Any], kinds: Mapping[str, FlagKind], where: Path) -> list[str]:
    """What is wrong with the options in a file, one sentence each; unknown names are not looked at."""
    found = [
        f"{where}: {name} = {value} must be a whole number."
        for name, value in table.items()
        if kinds.get(name) == "whole" and not is_whole(value)
    ]
    negated = [name.removeprefix("no_") for name in table if name.startswith("no_")]
    return found + [
        f"{where}: no_{name} is only for the command line; write {name} = false."
        for name in negated
        if kinds.get(name) == "switch"
    ]


def require_in_place(config: Path, output_dir: str | None, resume: str | None) -> None:
    """Raise ConfigError for the run.toml of a moved run folder: it would be started anew in the old place."""
    folder, said = config.resolve().parent, Path(output_dir or ".").resolve()
    is_run = config.name == "run.toml" and (folder / "status.json").is_file() and any(folder.glob("checkpoint-*"))
    if resume == "latest" and is_run and folder != said and not any(said.glob("checkpoint-*")):
        raise ConfigError(
            f"{config} says --output_dir {output_dir}, where there is nothing to go on from; its checkpoints "
            f"lie in {folder}. Add --output_dir {shlex.quote(str(folder))}"
        )


def _spelled(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of a table by their own names. Raises ConfigError for one that stands in it under two."""
    found: dict[str, str] = {}  # the name of each -> as it is written
    for written in table:
        plain = written.replace("-", "_")
        name = ALSO_CALLED.get(plain, plain)
        if name in found:
            values = " and ".join(entry(key, table[key]) for key in (found[name], written))
            raise ConfigError(f"{where}: {found[name]} and {written} are one option, given {values}; keep one.")
        found[name] = written
    return {name: table[written] for name, written in found.items()}


def _holds_tables(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(inner, dict) for inner in value)
