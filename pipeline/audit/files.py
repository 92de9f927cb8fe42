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
    bad, said = dict(found.bad), {f"{name}: {reason}" for name, reason in found.bad}
    remarks = [
        Case(f"{note.kind}: {note.case}", (note.case,)) if isinstance(note, Note) else Case(note)
        for note in found.findings.notes
    ]
    return {
        "layout": [Case(problem) for problem in found.findings.problems],
        "unreadable": [Case(f"{name}: {reason}", (name,)) for name, reason in bad.items()],
        "unread": [Case(text) for text in found.findings.skipped if text not in said],
        "remarks": remarks,
    }


def of_pictures(found: Survey) -> Cases:
    """What pictures are like as files, and those that show nothing."""
    assert found.manifest is not None
    cases: Cases = {
        "outside": [
            Case(f"{example.name} is {place}", (example.name,))
            for example, place in links(by_name(found.manifest.distinct()))
            if Path(example.options.place).resolve() not in place.parents
        ]
    }
    for example in by_name(found.manifest.distinct()):
        masked = example.options.masked_loss and example.mask is None
        for kind, text in said_of(found.looks[example.image_id], masked=masked).items():
            cases.setdefault(kind, []).append(Case(f"{example.name}{text}", (example.name,)))
    return cases


def said_of(look: Look, *, masked: bool) -> dict[str, str]:
    """The kinds of findings that one picture belongs to, each with what there is to add to its name."""
    shows_something = look.spread >= NEARLY_ONE_COLOUR
    stored = look.stored
    found = {
        "hidden": "" if masked and stored.hidden else None,
        "one-colour": None if shows_something else f": grey values differ by {look.spread} of 255",
        "dark-or-white": f": mean grey value {look.mean} of 255"
        if shows_something and not NEARLY_BLACK <= look.mean <= NEARLY_WHITE
        else None,
        "turned": "" if stored.turned else None,
        "profile": "" if stored.has_profile else None,
        "mode": None if stored.mode in PLAIN_MODES else f": {stored.mode}",
        "transparent": "" if stored.has_alpha else None,
        "animated": f": {stored.frames} frames" if stored.frames > 1 else None,
    }
    return {kind: text for kind, text in found.items() if text is not None}
