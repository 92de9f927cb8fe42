"""Notes: what a run has to say about its data and its options that is no error."""

from collections.abc import Iterable

MAX_EXAMPLES = 3  # of each kind, where notes are shown together
MAX_LETTERS = 240  # of each of these: a whole caption may be in it


class Note(str):
    """One remark about one case; notes of one kind are counted together when they are shown."""

    kind: str
    case: str  # the file, caption or prompt in question

    def __new__(cls, kind: str, case: str) -> "Note":
        """`kind: case`, with both still told apart."""
        note = super().__new__(cls, f"{kind}: {case}")
        note.kind, note.case = kind, case
        return note


def grouped(notes: Iterable[str]) -> tuple[str, ...]:
    """One line for each kind, how many there are of it and the first few; a plain text is a kind of its own."""
    return tuple(_line(kind, cases) for kind, cases in _cases(notes).items())


def all_shown(notes: Iterable[str]) -> bool:
    """Whether `grouped` leaves none of these out."""
    return all(
        [kind] == cases or (len(cases) <= MAX_EXAMPLES and list(map(_shown, cases)) == cases)
        for kind, cases in _cases(notes).items()
    )


def _cases(notes: Iterable[str]) -> dict[str, list[str]]:
    cases: dict[str, list[str]] = {}
    for note in notes:
        kind, case = (note.kind, note.case) if isinstance(note, Note) else (note, note)
        cases.setdefault(kind, []).append(case)
    return cases


def _line(kind: str, cases: list[str]) -> str:
    if len(cases) == 1:
        return kind if kind == cases[0] else f"{kind}: {_shown(cases[0])}"
    more = f"; and {len(cases) - MAX_EXAMPLES} more" if len(cases) > MAX_EXAMPLES else ""
    return f"{kind} ({len(cases)}): {'; '.join(map(_shown, cases[:MAX_EXAMPLES]))}{more}"


def _shown(case: str) -> str:
    """A case with its middle left out where it is long."""
    half = MAX_LETTERS // 2
    return case if len(case) <= MAX_LETTERS else f"{case[:half].rstrip()} ... {case[-half:].lstrip()}"
