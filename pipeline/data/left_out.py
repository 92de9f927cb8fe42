"""Captions from a template without some of its columns: all combinations, each as likely as chance makes it.

They take the place of several captions of a picture, of which each epoch draws one by its weight. So nothing else
has to know of columns, and what is drawn has the probability of leaving each out by itself, exactly.
"""

import itertools
import re
import string
from collections.abc import Mapping, Set
from typing import Any

from pipeline.data import captions

MAX_COLUMNS = 6  # which make 64 captions of a picture
GROUP = re.compile(r"\[([^\[\]]*)\]")


def combinations(template: str, row: Mapping[str, Any], share: float) -> tuple[list[str], list[float]]:
    """The captions of a row with each set of columns left out, first with all of them, and the weight of each.

    Raises as `captions.filled` does.
    """
    names = captions.fields_of(template)
    texts, weights = [captions.filled(without(template, frozenset()), row)], [(1 - share) ** len(names)]
    for number in range(1, len(names) + 1):
        for dropped in itertools.combinations(names, number):
            rest = captions.filled(without(template, frozenset(dropped)), row)
            texts.append(tidied(rest))
            weights.append(share**number * (1 - share) ** (len(names) - number))
    return texts, weights


def without(template: str, dropped: Set[str]) -> str:
    """A template without some columns, and without the brackets: what stands in one with such a column goes with it."""
    kept = GROUP.sub(lambda found: "" if dropped & _columns(found[1]) else found[1], template)
    pieces = string.Formatter().parse(kept)
    return "".join(
        _literal(text) + ("" if name is None or name in dropped else f"{{{name}}}") for text, name, _, _ in pieces
    )


def tidied(text: str) -> str:
    """A caption without the commas and spaces that stood around what was left out."""
    text = re.sub(r"\s+([,;.])", r"\1", " ".join(text.split()))
    return re.sub(r"[,;](?=[,;.])", "", text).strip(" ,;")


def _columns(text: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(text)}


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
