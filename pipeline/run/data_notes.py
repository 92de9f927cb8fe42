"""What the data of a run give cause to note."""

from pipeline.data import captions
from pipeline.data.manifest import Manifest, column
from pipeline.notes import Note


def found(manifest: Manifest) -> list[str]:
    """What came to light when a dataset was read."""
    notes: list[str] = [Note("left out", problem) for problem in manifest.skipped]
    notes += [Note("the same image and caption", names) for names in manifest.duplicates]
    return notes + list(manifest.notes)


def mirrored(manifest: Manifest) -> list[str]:
    """The captions that a mirrored picture makes wrong."""
    examples = manifest.distinct().examples
    rows = zip(*(column(examples, name) for name in ("options", "name", "captions")), strict=True)
    flipped = [(name, texts) for options, name, texts in rows if options.random_flip]
    return [
        Note("captions with 'left' or 'right', while --random_flip mirrors their images", f"{name}: {caption!r}")
        for name, texts in sorted(flipped, key=lambda row: row[0])
        for caption in texts
        if captions.has_word(caption, "left") or captions.has_word(caption, "right")
    ]


def _about_class(note: str) -> str:
    """A note in which the class's prompt has its own name."""
    return Note(note.kind.replace("--instance_prompt", "--class_prompt"), note.case) if isinstance(note, Note) else note


def of_other(name: str, other: Manifest | None) -> tuple[str, ...]:
    """What came to light about a test set, or the pictures of a class, that is a dataset of its own."""
    notes = found(other) if other is not None else []
    notes = [_about_class(note) if name == "class" else note for note in notes]
    return tuple(Note(f"{name}: {n.kind}", n.case) if isinstance(n, Note) else f"{name}: {n}" for n in notes)
