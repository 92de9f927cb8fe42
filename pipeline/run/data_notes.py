"""What the data of a run give cause to note."""

from pipeline.data.manifest import Manifest, by_name
from pipeline.geometry import Size
from pipeline.notes import Note


def found(manifest: Manifest) -> list[str]:
    """What came to light when a dataset was read."""
    notes: list[str] = [Note("left out", problem) for problem in manifest.skipped]
    notes += [Note("the same image and caption", names) for names in manifest.duplicates]
    return notes + list(manifest.notes)


def enlarged(manifest: Manifest, size: Size) -> list[str]:
    """The images that have to be scaled up to cover this size."""
    kind = f"smaller than {size}, so enlarged"
    return [
        Note(kind, f"{example.name} ({example.size})")
        for example in by_name(manifest.distinct())
        if example.size.width < size.width or example.size.height < size.height
    ]


def of_test_set(test_set: Manifest | None) -> tuple[str, ...]:
    """What came to light about a test set that is a dataset of its own."""
    notes = found(test_set) if test_set is not None else []
    return tuple(Note(f"test set: {n.kind}", n.case) if isinstance(n, Note) else f"test set: {n}" for n in notes)
