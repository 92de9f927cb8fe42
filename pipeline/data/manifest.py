"""A dataset as a list of examples, in an order that content alone decides."""

import dataclasses
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from pipeline.data import images
from pipeline.data.options import DataOptions
from pipeline.data.rows import Source
from pipeline.geometry import Size
from pipeline.hashing import digest

Places = Int64[np.ndarray, " n"]  # of examples in a manifest
Letters = UInt8[np.ndarray, "n length"]  # of texts


@dataclass(frozen=True)
class Example:
    """One image with its captions. `id` is a hash of all, so it survives renaming, moving and copying."""

    id: str
    image_id: str  # hash of the file's bytes
    name: str  # of the file within its folder, or 'row 17' of a table
    source: Source
    captions: tuple[str, ...]  # at least one; '' where none was demanded
    size: Size  # upright
    options: DataOptions  # of its source: how it is shown, and what chance does to its captions
    copy: int = 0  # which of equal examples it is, from 0
    sketch: str = ""  # the picture in a few letters, by which near copies are found
    mask: Source | None = None
    weights: tuple[float, ...] = ()  # how often each caption is shown; (): all alike
    mask_id: str = ""  # hash of the mask's bytes
    group: str | None = None  # what --balance counts it among
    loss_weight: float = 1.0  # what --weight_column says
    weighed_as: str | None = None  # the value in it that --weight_values weighs
    is_class: bool = False  # shows the class that a subject belongs to, so its loss has a weight of its own

    @property
    def views_id(self) -> str:
        """What its views are drawn by: equal examples show the same ones, each in an order of its own."""
        return views_id_of(self.id, self.copy)

    def picture(self) -> Image.Image:
        """The image as it is shown, decoded anew. Raises what Pillow does for one that has gone bad."""
        return images.decode(io.BytesIO(self.source.content()), self.options.alpha_background)

    @property
    def written(self) -> tuple[str, ...]:
        """The captions as they were written."""
        return written(self.captions, self.options)

    @property
    def caption(self) -> str:
        """The first caption: the one that measurements and pictures go by."""
        return self.captions[0]


def views_id_of(example_id: str, copy: int) -> str:
    """What equal examples share: the id of the first of them."""
    return example_id.removesuffix(f"-{copy + 1}") if copy else example_id


def written(captions: tuple[str, ...], options: DataOptions) -> tuple[str, ...]:
    """Those of an example's captions that were written: without those that --column_dropout makes of them."""
    return captions[:1] if options.column_dropout else captions


class Columns(Sequence[Example], ABC):
    """Examples that lie column by column: each becomes an object only when it is asked for."""

    @abstractmethod
    def column(self, name: str) -> list[Any]:
        """One field of every example."""

    @abstractmethod
    def letters(self, name: str) -> Letters | None:
        """A field whose texts are all of one length, as bytes; None where they are not."""

    @abstractmethod
    def at(self, places: Places) -> "Columns":
        """Those at some places, in this order."""


def column(examples: Sequence[Example], name: str) -> list[Any]:
    """One field of every example, without making those that lie in columns."""
    if isinstance(examples, Columns):
        return examples.column(name)
    return [getattr(example, name) for example in examples]


def letters(examples: Sequence[Example], name: str) -> Letters | None:
    """A field whose texts are all of one length, as bytes; None where they are not, or there is none."""
    if isinstance(examples, Columns):
        return examples.letters(name)
    texts = [(text or "").encode() for text in column(examples, name)]
    if len({len(text) for text in texts}) != 1:
        return None
    return np.frombuffer(b"".join(texts), dtype=np.uint8).reshape(len(texts), -1)


def at(examples: Sequence[Example], places: Places) -> Sequence[Example]:
    """The examples at some places, in this order, kept as they are."""
    return examples.at(places) if isinstance(examples, Columns) else tuple(examples[place] for place in places.tolist())


@dataclass(frozen=True)
class Manifest:
    """The examples of a dataset in an order that content alone decides, and what was left out on request."""

    origin: str  # the folder or the name of the dataset
    examples: Sequence[Example]  # a tuple, or of a large folder its columns
    skipped: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def limited(self, limit: int | None) -> "Manifest":
        """The first examples only, copies last; the order is by content, so they are the same ones every time."""
        if limit is None:
            return self
        return self.of(np.sort(np.argsort(self._copies, kind="stable")[:limit]))

    def distinct(self) -> "Manifest":
        """Every example once, however often it counts in training."""
        return self.of(np.flatnonzero(self._copies == 0))

    def of_each_image(self) -> "Manifest":
        """Every image once, with the first of its rows: what is drawn and compared has to be independent."""
        _, firsts = np.unique(column(self.examples, "image_id"), return_index=True)
        found, num_rows = self.of(np.sort(firsts)), len(self.distinct().examples)
        if num_rows == len(firsts):
            return found
        note = f"of {num_rows} rows {num_rows - len(firsts)} show a picture again; each is drawn for its first caption"
        return dataclasses.replace(found, notes=(*self.notes, note))

    @property
    def _copies(self) -> Places:
        return np.array(column(self.examples, "copy"), dtype=np.int64)

    def of(self, places: Places) -> "Manifest":
        """The same dataset with the examples at these places only."""
        return dataclasses.replace(self, examples=at(self.examples, places))

    @property
    def fingerprint(self) -> str:
        """A hash of every image and caption."""
        return digest("\n".join(column(self.examples, "id")).encode())

    @property
    def data_fingerprint(self) -> str:
        """A hash of every image and caption, however often each counts: what the card of a dataset is for."""
        return self.distinct().fingerprint


def by_name(manifest: Manifest) -> list[Example]:
    """The examples by file name: content ids order them at random, people expect this order."""
    return sorted(manifest.examples, key=lambda example: example.name)
