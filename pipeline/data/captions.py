"""The captions of a picture: the text beside it, a column, or a template over columns."""

import codecs
import math
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HALF = re.compile("[\ud800-\udfff]")  # a lone surrogate


class NoColumn(ValueError):
    """A row lacks columns that captions are made from."""

    def __init__(self, missing: tuple[str, ...], available: tuple[str, ...]) -> None:
        super().__init__(f"no {', '.join(map(repr, missing))} (there is {', '.join(available) or 'nothing else'})")


def read_text(path: Path) -> str:
    """A text file as UTF-8, without byte-order mark. Raises ValueError that names the byte it fails at."""
    return text_of(path.read_bytes(), str(path))


def text_of(raw: bytes, where: str) -> str:
    """The same of the bytes of a file; `where` names it."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or raw.count(0) > len(raw) / 4:
        raise ValueError(
            f"{where}: this is no UTF-8 but looks like UTF-16 ('Unicode' in some editors); save it as UTF-8"
        )
    if 0 in raw:
        raise ValueError(f"{where}: byte {raw.index(0)} is a zero, which is no text; remove it")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: byte {error.start} (0x{raw[error.start]:02x}) is not UTF-8; save the file as UTF-8"
        ) from error


def texts_of(
    description: Mapping[str, Any] | str | None,
    columns: Sequence[str],
    template: str | None,
    *,
    separate_lines: bool = False,
) -> list[str]:
    """The captions of a picture, white space evened out, '' where one is missing.

    `description` is the text beside the picture, where several lines are one caption unless they are separate, or
    the cells of its row. There a template makes one caption, else each column holds one or a list of several.
    Raises NoColumn if the row lacks a column, ValueError if a cell holds something else than text.
    """
    if description is None or isinstance(description, str):
        found = [description or ""]
        if separate_lines:
            found = [line for line in (description or "").splitlines() if line.strip()]
    elif template is not None:
        found = [filled(template, description)]
    elif lacking := tuple(column for column in columns if column not in description):
        raise NoColumn(lacking, tuple(sorted(description)))
    else:
        cells = [description[column] for column in columns]
        found = [text for cell in cells for text in (cell if isinstance(cell, list) else [cell or ""])]
        odd = next((type(text).__name__ for text in found if not isinstance(text, str)), None)
        if odd is not None:
            raise ValueError(f"the caption is {odd}, not text")
    if any(HALF.search(text) for text in found):
        raise ValueError("the caption holds half a character (a lone surrogate); write the character whole")
    return [" ".join(text.split()) for text in found]


def weights_of(text: str) -> tuple[float, ...]:
    """The weights in '3,1'. Raises ValueError for what are none."""
    try:
        weights = tuple(float(word) for word in text.split(","))
    except ValueError:
        raise ValueError("holds no numbers, as in 3,1") from None
    if not (all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0):
        raise ValueError("needs numbers from 0 on, not all of them 0")
    return weights


def weighed(
    texts: Sequence[str], weights: Sequence[float], *, with_empty: bool = False
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The captions that say something, each once, and how often each is shown: by the weights of their places.

    Without weights all are shown alike, which is (). `with_empty` keeps '' among those with weights.
    Raises ValueError for another number of texts than of weights.
    """
    if not weights:
        return tuple(dict.fromkeys(text for text in texts if text)), ()
    if len(texts) != len(weights):
        raise ValueError(f"it has {len(texts)} caption(s), and --caption_weights {len(weights)}")
    found: dict[str, float] = {}
    for text, weight in zip(texts, weights, strict=True):
        if text or with_empty:
            found[text] = found.get(text, 0.0) + weight
    if found and not any(found.values()):
        raise ValueError("it has only captions that --caption_weights shows never")
    shown = {text: weight for text, weight in found.items() if weight}
    return tuple(shown), tuple(shown.values())


def fields_of(template: str) -> tuple[str, ...]:
    """The columns a template names, in its order. Raises ValueError if it is not of the form 'a {colour} {kind}'."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{template!r} cannot be read ({error})") from error
    if any(kind or conversion for _, _, kind, conversion in parts):
        raise ValueError(f"{template!r} has a format after a column's name; only {{name}} is understood")
    fields = tuple(dict.fromkeys(name for _, name, _, _ in parts if name is not None))
    if not fields or "" in fields:
        raise ValueError(f"{template!r} must name columns in braces, as in 'a {{colour}} {{kind}}'")
    return fields


def filled(template: str, description: Mapping[str, Any]) -> str:
    """A template with the values of a row. Raises NoColumn if it lacks one, ValueError for what is no single value."""
    fields = tuple(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(template) if name is not None))
    missing = tuple(name for name in fields if name not in description)
    if missing:
        raise NoColumn(missing, tuple(sorted(description)))
    values = {name: description[name] for name in fields}
    odd = [name for name, value in values.items() if not isinstance(value, str | int | float) or value == ""]
    odd += [name for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
    if odd:
        raise ValueError(f"{', '.join(map(repr, odd))} is empty or no single value, and --caption_template needs it")
    pieces = string.Formatter().parse(template)
    return "".join(text + ("" if name is None else str(values[name])) for text, name, _, _ in pieces)


def has_word(caption: str, word: str) -> bool:
    """Whether a caption holds a word (or words) as such, in any case: 'ohwx' is not in 'ohwxyz'."""
    padded = "".join(letter if letter.isalnum() else " " for letter in caption.lower())
    wanted = "".join(letter if letter.isalnum() else " " for letter in word.lower())
    return f" {' '.join(wanted.split())} " in f" {' '.join(padded.split())} "
