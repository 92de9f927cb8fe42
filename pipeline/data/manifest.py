"""A dataset as a list of examples, every problem found before anything is trained."""

import collections
import dataclasses
import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from pipeline.data import captions, images, layouts
from pipeline.data.layouts import Row, Source
from pipeline.data.options import DataOptions
from pipeline.errors import DataError, listed
from pipeline.geometry import Size
from pipeline.hashing import digest


@dataclass(frozen=True)
class Example:
    """One image with its captions. `id` is a hash of all, so it survives renaming, moving and copying."""

    id: str
    image_id: str  # hash of the file's bytes
    name: str  # of the file within its folder, or 'row 17' of a table
    source: Source
    captions: tuple[str, ...]  # at least one; '' where none was demanded
    size: Size  # upright

    @property
    def caption(self) -> str:
        """The first caption: the one that measurements and pictures go by."""
        return self.captions[0]


@dataclass(frozen=True)
class Manifest:
    """The examples of a dataset in an order that content alone decides, and what was left out on request."""

    origin: str  # the folder or the name of the dataset
    examples: tuple[Example, ...]
    skipped: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()

    def limited(self, limit: int | None) -> "Manifest":
        """The first examples only; the order is by content, so they are the same ones every time."""
        return dataclasses.replace(self, examples=self.examples[:limit])

    @property
    def fingerprint(self) -> str:
        """A hash of every image and caption."""
        return digest("\n".join(example.id for example in self.examples).encode())


def by_name(manifest: Manifest) -> list[Example]:
    """The examples by file name: content ids order them at random, people expect this order."""
    return sorted(manifest.examples, key=lambda example: example.name)


def read_manifest(folder: Path, options: DataOptions, flag: str = "--train_data_dir") -> Manifest:
    """Read a dataset folder: metadata.jsonl or .csv at its top, else one .txt per image; sub-folders included.

    Raises DataError with every unreadable image, missing or undecodable caption, row without a
    file and file without a row at once, except for what the options say to skip.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{flag} {folder} {what}; give a folder of images.")
    problems: list[str] = []
    return _checked(str(folder), layouts.folder_rows(folder, options, problems), options, problems)


def read_table(options: DataOptions) -> Manifest:
    """Read the dataset that --dataset_name names, under the same rules."""
    problems: list[str] = []
    return _checked(options.dataset_name or "", layouts.table_rows(options, problems), options, problems)


def _checked(origin: str, rows: Iterable[Row], options: DataOptions, problems: list[str]) -> Manifest:
    skipped: list[str] = []
    examples: list[Example] = []
    uncaptioned: dict[str, list[str]] = {}  # what is missing -> the rows that lack it
    num_rows = num_captioned = 0
    for row in rows:
        num_rows += 1
        try:
            found = captions.captions_of(row.description, options.caption_column, options.caption_template)
        except captions.NoColumn as error:
            uncaptioned.setdefault(str(error), []).append(row.where)
            continue
        except ValueError as error:
            problems.append(f"{row.where}: {error}")
            continue
        num_captioned += bool(found)
        if not found and options.missing_caption == "error":
            problems.append(f"{row.where}: no caption (--missing_caption skip or empty lets it through)")
            continue
        if not found and options.missing_caption == "skip":
            skipped.append(f"{row.name}: no caption")
            continue
        problems += _without_trigger(row.where, found, options.trigger_word)
        example = _read_example(row, found or ("",), options)
        if isinstance(example, Example):
            examples.append(example)
        elif options.on_bad_image == "skip":
            skipped.append(f"{row.name}: {example}")
        else:
            problems.append(f"{row.where}: {example} (--on_bad_image skip leaves it out)")
    for missing, names in uncaptioned.items():
        where = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        problems.append(f"{where}: {missing}; see --caption_column and --caption_template")
    if num_rows and not num_captioned and not uncaptioned:
        problems.append(f"not one of the {num_rows} images has a caption, so there is nothing to condition on")
    if problems:
        raise DataError(f"{origin}: {len(problems)} problem(s) in the dataset.\n{listed(problems)}")
    if not examples:
        raise DataError(f"{origin} holds no usable image ({', '.join(sorted(layouts.EXTENSIONS))}).")
    return _in_order(origin, examples, skipped)


def _without_trigger(name: str, found: tuple[str, ...], trigger: str | None) -> list[str]:
    if trigger is None:
        return []
    return [
        f"{name}: {caption!r} lacks the trigger word {trigger!r}"
        for caption in found
        if not captions.has_word(caption, trigger)
    ]


def _in_order(origin: str, examples: list[Example], skipped: list[str]) -> Manifest:
    chosen = sorted(examples, key=lambda example: (example.id, example.name))
    seen: dict[str, list[str]] = collections.defaultdict(list)
    distinct = []
    for example in chosen:
        copies = seen[example.id]
        copies.append(example.name)
        # An exact copy keeps its own draws, or it would merely double the weight of one.
        distinct.append(dataclasses.replace(example, id=f"{example.id}-{len(copies)}") if len(copies) > 1 else example)
    duplicates = tuple(" = ".join(copies) for copies in seen.values() if len(copies) > 1)
    return Manifest(origin, tuple(distinct), tuple(sorted(skipped)), duplicates)


def _read_example(row: Row, found: tuple[str, ...], options: DataOptions) -> Example | str:
    """The example, or in a few words why its image cannot be used."""
    try:
        content = row.source.content()
        if not content:
            return "there is nothing in it"
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = images.decode(io.BytesIO(content), options.alpha_background)
    except UnidentifiedImageError:
        return "cannot be decoded: it is not an image"
    except Exception as error:  # Pillow raises many kinds; each means the same to the user
        return f"cannot be decoded ({type(error).__name__}: {error})"
    image_id = digest(content)
    identity = digest("\n".join([image_id, *found]).encode())
    return Example(identity, image_id, row.name, row.source, found, Size(picture.width, picture.height))
