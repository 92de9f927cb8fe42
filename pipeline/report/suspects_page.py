"""The page of a run's suspects: the pictures whose captions help least, with these."""

from pathlib import Path

from pipeline import atomic
from pipeline.data.manifest import Example
from pipeline.report.data_page import thumbnail_of
from pipeline.report.rendering import template

ADVICE = (
    "A caption that raises the loss says something that its picture does not show, or leaves out what all others say. "
    "Look at each: the model, which learnt from all of them, may be wrong too."
)


def write(name: str, rows: list[tuple[Example, str]], num_all: int, path: Path) -> Path:
    """Make the page of these pictures, each with what there is to say of it; `num_all` is how many a run has."""
    tiles = [
        {"picture": thumbnail_of(example), "name": example.name, "caption": example.caption, "text": text}
        for example, text in rows
    ]
    headline = f"The {len(rows)} of {num_all} pictures whose captions help least."
    page = template("suspects.html").render(name=name, headline=headline, advice=ADVICE, tiles=tiles)
    atomic.write_text(path, page)
    return path
