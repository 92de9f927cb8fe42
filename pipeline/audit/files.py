"""What is wrong with files, and what is stored in another way than most."""

from pathlib import Path

from pipeline.audit.findings import Case, Cases
from pipeline.audit.survey import Look, Survey, links
from pipeline.data.manifest import by_name
from pipeline.notes import Note

PLAIN_MODES = ("RGB", "RGBA", "L", "P", "LA", "PA", "1")
NEARLY_ONE_COLOUR = 2.0  # standard deviation of grey values, of 255
NEARLY_BLACK, NEARLY_WHITE = 10.0, 247.0  # mean grey value


def of_files(found: Survey) -> Cases:
    """What reading the dataset had to say."""
    bad = dict(found.bad)
    remarks = [
        Case(f"{note.kind}: {note.case}", (note.case,)) if isinstance(note, Note) else Case(note)
        for note in found.findings.notes
    ]
    return {
        "layout": [Case(problem) for problem in found.findings.problems],
        "unreadable": [Case(f"{name}: {reason}", (name,)) for name, reason in bad.items()],
        "unread": [Case(text) for text in found.findings.skipped if text.split(": ")[0] not in bad],
        "remarks": remarks,
    }


def of_pictures(found: Survey) -> Cases:
    """What pictures are like as files, and those that show nothing."""
    assert found.manifest is not None
    root = Path(found.manifest.origin).resolve()
    cases: Cases = {
        "outside": [
            Case(f"{name} is {place}", (name,))
            for name, place in links(by_name(found.manifest.distinct()))
            if root not in place.parents
        ]
    }
    for example in by_name(found.manifest.distinct()):
        for kind, text in said_of(found.looks[example.image_id]).items():
            cases.setdefault(kind, []).append(Case(f"{example.name}{text}", (example.name,)))
    return cases


def said_of(look: Look) -> dict[str, str]:
    """The kinds of findings that one picture belongs to, each with what there is to add to its name."""
    shows_something = look.spread >= NEARLY_ONE_COLOUR
    is_plain = look.mode in PLAIN_MODES
    found = {
        "one-colour": None if shows_something else f": grey values differ by {look.spread} of 255",
        "dark-or-white": f": mean grey value {look.mean} of 255"
        if shows_something and not NEARLY_BLACK <= look.mean <= NEARLY_WHITE
        else None,
        "turned": "" if look.turned else None,
        "profile": "" if look.has_profile else None,
        "mode": None if is_plain else f": {look.mode}",
        "transparent": "" if look.has_alpha else None,
        "animated": f": {look.frames} frames" if look.frames > 1 else None,
    }
    return {kind: text for kind, text in found.items() if text is not None}
