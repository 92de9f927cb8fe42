"""Captions with slots: every combination of what may stand in them."""

import itertools
import re
from collections.abc import Mapping, Sequence

SLOT = re.compile(r"\{([^{}]*)\}")


def slots_of(template: str) -> list[str]:
    """The names of a template's slots, each once."""
    return list(dict.fromkeys(SLOT.findall(template)))


def filled(template: str, values: Mapping[str, Sequence[str]], by: str) -> list[tuple[str, int, int]]:
    """Every combination of the values as a caption, the number of its group, and that of what it shares with others.

    'a {size}' becomes 'an {size}' before a vowel where the template says 'a(n) {size}'.
    """
    others = [slot for slot in slots_of(template) if slot != by]
    rest = [dict(zip(others, some, strict=True)) for some in itertools.product(*(values[slot] for slot in others))]
    return [
        (_captioned(template, {**some, by: group}), number, place)
        for number, group in enumerate(values[by])
        for place, some in enumerate(rest)
    ]


def _captioned(template: str, values: Mapping[str, str]) -> str:
    text = SLOT.sub(lambda found: values[found[1]], template)
    return re.sub(r"\b([Aa])\(n\) (?=(\w))", lambda f: f"{f[1]}{'n' * (f[2].lower() in 'aeiou')} ", text)
