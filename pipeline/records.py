"""Frozen dataclasses as JSON and back, strictly: a file that lacks a field or has a strange one is refused by name."""

import dataclasses
import json
import math
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import CheckpointError

Record = TypeVar("Record")
NON_FINITE = ("nan", "inf", "-inf")  # JSON has no such numbers, so they are written as strings
REMEDY = "put back what the run wrote, or train again"


def to_json(value: Any) -> Any:
    """A record, or what it holds, as `json.dumps` takes it; fields that have their default are left out."""
    if dataclasses.is_dataclass(value):
        pairs = ((field, vars(value)[field.name]) for field in dataclasses.fields(value))
        return {field.name: to_json(inner) for field, inner in pairs if _is_told(field, inner)}
    if isinstance(value, dict):
        return {key: to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def from_json(kind: type[Record], found: Any, where: str) -> Record:
    """A record of a dataclass from parsed JSON; `where` names the file. Raises CheckpointError for any other fields."""
    assert dataclasses.is_dataclass(kind)
    if not isinstance(found, dict):
        raise CheckpointError(f"{where} holds no JSON object; {REMEDY}.")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    lacking = sorted(name for name, field in fields.items() if name not in found and _is_required(field))
    if lacking:
        raise CheckpointError(f"{where} lacks {', '.join(lacking)}; {REMEDY}.")
    if strange := sorted(found.keys() - fields):
        raise CheckpointError(f"{where} holds {', '.join(strange)}, unknown to this version; {REMEDY}.")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(hints[name], inner, f"{where}: {name}") for name, inner in found.items()})


def read(kind: type[Record], path: Path) -> Record:
    """A record from a file of JSON. Raises CheckpointError for one that is damaged or holds something else."""
    return parse(kind, text_in(path), str(path))


def text_in(path: Path) -> str:
    """The text of a file that a run wrote. Raises CheckpointError for bytes that are no UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is damaged ({error}); {REMEDY}.") from error


def json_in(path: Path) -> Any:
    """What a file of JSON holds. Raises CheckpointError for a damaged one."""
    return _parsed(text_in(path), str(path))


def table_in(path: Path) -> dict[str, Any]:
    """The names and values in a file of JSON, or of TOML. Raises CheckpointError for a damaged or an empty one."""
    try:
        found = tomllib.loads(text_in(path)) if path.suffix == ".toml" else json_in(path)
    except tomllib.TOMLDecodeError as error:
        raise CheckpointError(f"{path} is damaged ({error}); {REMEDY}.") from error
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"{path} is damaged (it holds no names and values); {REMEDY}.")
    return found


def parse(kind: type[Record], text: str, where: str) -> Record:
    """A record from the text of JSON. Raises CheckpointError as `from_json` does, and for what is no JSON."""
    return from_json(kind, _parsed(text, where), where)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{where} is damaged ({error}); {REMEDY}.") from error


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _is_told(field: "dataclasses.Field[Any]", value: Any) -> bool:
    return field.default is dataclasses.MISSING or value != field.default


def _value(hint: Any, value: Any, where: str) -> Any:
    """What JSON holds, as a field of this type; tuples, dictionaries by name, records and None among them."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # only of one type and None
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        return None if value is None else _value(inner, value, where)
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type[Any], hint), value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], inner, where) for inner in value)
    if origin is dict and isinstance(value, dict):
        return {key: _value(arguments[1], inner, f"{where}: {key}") for key, inner in value.items()}
    if hint is float and (value in NON_FINITE or (isinstance(value, int | float) and not isinstance(value, bool))):
        return float(value)
    if hint is Any or (isinstance(hint, type) and type(value) is hint):
        return value
    raise CheckpointError(f"{where} is {value!r:.80}, which does not belong there; {REMEDY}.")
