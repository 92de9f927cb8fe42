"""A folder of images and captions as a list of examples, every problem found before anything is trained."""

import collections
import dataclasses
import hashlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipeline.data import captions, images
from pipeline.data.options import DataOptions
from pipeline.errors import DataError, listed

JUNK = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Example:
    """One image with its caption. `id` is a hash of both, so it survives renaming, moving and copying."""

    id: str
    image_id: str  # hash of the file's bytes
    path: Path
    caption: str
    width: int  # pixels, upright
    height: int


@dataclass(frozen=True)
class Manifest:
    """The examples of a dataset in an order that content alone decides, and what was left out on request."""

    folder: Path
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


def digest(content: bytes) -> str:
    """The content hash used for every id and cache key: 128 bits of BLAKE2b, in hex."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def read_manifest(folder: Path, options: DataOptions, flag: str = "--train_data_dir") -> Manifest:
    """Read a dataset folder: metadata.jsonl at its top, else one .txt per image; sub-folders included.

    Raises DataError with every unreadable image, missing or undecodable caption, row without a
    file and file without a row at once, except for what the options say to skip.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{flag} {folder} {what}; give a folder of images.")
    problems: list[str] = []
    skipped: list[str] = []
    captioned = list(_captioned_files(folder, options, problems))
    examples = []
    for path, caption in captioned:
        name = path.relative_to(folder).as_posix()
        if caption is None and options.missing_caption == "error":
            problems.append(f"{name}: no caption (--missing_caption skip or empty lets it through)")
            continue
        if caption is None and options.missing_caption == "skip":
            skipped.append(f"{name}: no caption")
            continue
        example = _read_example(path, caption or "", options)
        if isinstance(example, Example):
            examples.append(example)
        elif options.on_bad_image == "skip":
            skipped.append(f"{name}: {example}")
        else:
            problems.append(f"{name}: {example} (--on_bad_image skip leaves it out)")
    if captioned and not any(caption for _, caption in captioned):
        problems.append(f"not one of the {len(captioned)} images has a caption, so there is nothing to condition on")
    if problems:
        raise DataError(f"{folder}: {len(problems)} problem(s) in the dataset.\n{listed(problems)}")
    if not examples:
        raise DataError(f"{folder} holds no usable image ({', '.join(sorted(images.EXTENSIONS))}).")
    return _in_order(folder, examples, skipped)


def _in_order(folder: Path, examples: list[Example], skipped: list[str]) -> Manifest:
    chosen = sorted(examples, key=lambda example: (example.id, str(example.path)))
    seen: dict[str, list[str]] = collections.defaultdict(list)
    distinct = []
    for example in chosen:
        copies = seen[example.id]
        copies.append(example.path.relative_to(folder).as_posix())
        # An exact copy keeps its own draws, or it would merely double the weight of one.
        distinct.append(dataclasses.replace(example, id=f"{example.id}-{len(copies)}") if len(copies) > 1 else example)
    duplicates = tuple(" = ".join(copies) for copies in seen.values() if len(copies) > 1)
    return Manifest(folder, tuple(distinct), tuple(sorted(skipped)), duplicates)


def _captioned_files(folder: Path, options: DataOptions, problems: list[str]) -> Iterator[tuple[Path, str | None]]:
    found = sorted(_image_files(folder, problems))
    metadata = folder / captions.METADATA
    if metadata.is_file():
        try:
            rows, wrong = captions.read_metadata(metadata, options.image_column, options.caption_column)
        except ValueError as error:
            problems.append(str(error))
            return
        problems.extend(wrong)
        names = {path.relative_to(folder).as_posix(): path for path in found}
        problems.extend(f"{metadata.name}: {name} has a row but there is no such file" for name in rows.keys() - names)
        if not wrong:
            problems.extend(f"{name}: has no row in {metadata.name}" for name in sorted(names.keys() - rows))
        yield from ((names[name], rows[name]) for name in sorted(names.keys() & rows))
        return
    for path in found:
        try:
            yield path, captions.read_sidecar(path) or None
        except ValueError as error:
            problems.append(str(error))


def _image_files(folder: Path, problems: list[str]) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            path = Path(parent, name)
            if name.startswith(".") or name.lower() in JUNK:
                continue
            if path.suffix.lower() in images.EXTENSIONS:
                yield path
            elif path.suffix.lower() in images.UNREAD_EXTENSIONS:
                problems.append(f"{path.relative_to(folder).as_posix()}: {path.suffix} is not read; convert it to PNG")


def _read_example(path: Path, caption: str, options: DataOptions) -> Example | str:
    """The example, or in a few words why its image cannot be used."""
    content = path.read_bytes()
    if not content:
        return "the file is empty"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = images.decode(path, options.alpha_background)
    except Exception as error:  # Pillow raises many kinds; each means the same to the user
        return f"cannot be decoded ({type(error).__name__}: {str(error).replace(str(path), path.name)})"
    image_id = digest(content)
    return Example(digest(f"{image_id}\n{caption}".encode()), image_id, path, caption, picture.width, picture.height)
