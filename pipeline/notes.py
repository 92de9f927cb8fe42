"""Notes: what a run has to say about its data and its options that is no error."""

from collections.abc import Iterable
from dataclasses import dataclass

MAX_EXAMPLES = 3  # of each kind, where notes are shown together


@dataclass(frozen=True)
class Note:
    """One remark. Notes of one kind are counted together when they are shown."""

    kind: str
    case: str = ""  # the file, caption or prompt in question; '' where there is only one

    def __str__(self) -> str:
        return f"{self.kind}: {self.case}" if self.case else self.kind


def grouped(notes: Iterable[Note]) -> tuple[str, ...]:
    """One line for each kind: how many there are of it, and the first few."""
    cases: dict[str, list[str]] = {}
    for note in notes:
        cases.setdefault(note.kind, []).append(note.case)
    return tuple(_line(kind, found) for kind, found in cases.items())


def _line(kind: str, cases: list[str]) -> str:
    if len(cases) == 1:
        return str(Note(kind, cases[0]))
    more = f"; and {len(cases) - MAX_EXAMPLES} more" if len(cases) > MAX_EXAMPLES else ""
    return f"{kind} ({len(cases)}): {'; '.join(cases[:MAX_EXAMPLES])}{more}"
