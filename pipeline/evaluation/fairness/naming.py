"""Groups by their names, as they are found in what is said of a picture."""

from collections.abc import Sequence

from pipeline.evaluation.metrics.adherence import words_of

ARTICLES = frozenset({"a", "an", "the"})
PLURALS = ("s", "es")  # 'three foxes' are of the group fox


def named_in(text: str, groups: Sequence[str]) -> str | None:
    """The one group that a text names as a word or words, also in the plural; None where it names none, or several.

    What is part of a longer name is none of its own: 'dark blue' names no 'blue'.
    """
    found = all_named_in(text, groups)
    return found[0] if len(found) == 1 else None


def all_named_in(text: str, groups: Sequence[str]) -> list[str]:
    """Every group that a text names."""
    words, found = words_of(text), list[str]()
    for group in sorted(groups, key=lambda name: (-len(words_of(name)), -len(name))):  # 'shorts' before 'short'
        wanted = words_of(group)
        places = [first for first in range(len(words)) if wanted and _are(words[first : first + len(wanted)], wanted)]
        for first in places:
            words[first : first + len(wanted)] = [""] * len(wanted)
        found += [group] if places else []
    return found


def unreadable(groups: Sequence[str]) -> list[str]:
    """A sentence for each name that no reader tells from what is said of any picture, or from another name."""
    found = [
        f"The group {group!r} cannot be found in what a reader says: it is no word that stands for it alone."
        for group in groups
        if not set(words_of(group)) - ARTICLES
    ]
    alike: dict[tuple[str, ...], list[str]] = {}
    for group in groups:
        alike.setdefault(tuple(words_of(group)), []).append(group)
    return found + [
        f"A reader cannot tell {' from '.join(map(repr, some))}: give them one name."
        for words, some in alike.items()
        if words and len(some) > 1
    ]


def _are(words: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether words are those that are wanted, but for the plural of the last."""
    lasts = {wanted[-1], *(wanted[-1] + ending for ending in PLURALS)}
    return list(words[:-1]) == list(wanted[:-1]) and words[-1:] != [] and words[-1] in lasts
