"""A dataset as a list of examples, every problem found before anything is trained."""

import collections
import contextlib
import dataclasses
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL

from pipeline.data import caption_rules, captions, folder, images, layouts, left_out, near, prompt_weights, tables, tags
from pipeline.data.groups import said_by
from pipeline.data.manifest import Example, Manifest
from pipeline.data.options import DataOptions
from pipeline.data.rows import Findings, Row, Source
from pipeline.errors import DataError, listed, printable
from pipeline.geometry import Size
from pipeline.hashing import digest
from pipeline.notes import Note
from pipeline.progress import Progress
from pipeline.remembered import Remembered, cache_folder, remembered

MOST_ALIKE = 10  # rows of which the same is said one by one
MAX_HINTS = 4  # in one sentence
MASK_SHAPE_TOLERANCE = 0.02  # of width / height
VERSION = 2  # raise it when other things are found out about an image

Counted = tuple[Example, int]  # with how often it counts in an epoch
Gathered = tuple[str, list[Counted], Findings]  # the name of the dataset, what it holds, and what is wrong with it
OnRow = Callable[[Row, Example | str], None]  # is told each row with its example, or why its image cannot be used


def read_manifest(place: Path, options: DataOptions, flag: str = "--train_data_dir") -> Manifest:
    """Read a dataset folder: metadata.jsonl, .csv or .parquet, else a caption file per image; sub-folders included.

    Raises DataError with every unreadable image, missing or undecodable caption, row without a
    file and file without a row at once, except for what the options say to skip.
    """
    return manifest_of(*gather(place, options, Findings(), flag))


def gather(
    place: Path, options: DataOptions, findings: Findings, flag: str = "--train_data_dir", on_row: OnRow | None = None
) -> Gathered:
    """What a folder holds; what is wrong with it goes to `findings`. Raises DataError for what is no folder."""
    if not place.is_dir():
        what = "is a file" if place.exists() else "does not exist"
        step = "give a folder of images"
        if place.suffix.lower() in tables.READERS and place.is_file():
            step += f", or --dataset_name {place}"
        raise DataError(printable(f"{flag} {place} {what}; {step}."))
    contents = folder.look(place, flag, options.caption_extensions, findings)
    if options.masked_loss:
        folder.take_masks(contents, findings)
    findings.hints = folder.hints(contents)
    rows = layouts.folder_rows(contents, options, findings)
    origin = str(contents.root)
    return origin, _checked(origin, rows, options, findings, num_images=len(contents.images), on_row=on_row), findings


def gather_table(options: DataOptions, findings: Findings, on_row: OnRow | None = None) -> Gathered:
    """The same for the dataset that --dataset_name names."""
    origin, rows = options.dataset_name or "", tables.table_rows(options, findings)
    return origin, _checked(origin, rows, options, findings, num_images=None, on_row=on_row), findings


def _checked(
    origin: str,
    rows: Iterable[Row],
    options: DataOptions,
    findings: Findings,
    *,
    num_images: int | None,
    on_row: OnRow | None,
) -> list[Counted]:
    """The examples of rows, with what an earlier start found out about their images."""
    kind = f"images {VERSION}, Pillow {PIL.__version__}, {options.max_image_megapixels} megapixels"
    with (
        remembered(cache_folder(options.cache_dir), os.path.realpath(origin), kind, whole=True) as known,
        contextlib.closing(Progress(num_images, "image")) as progress,
    ):
        return _examined(rows, options, findings, known=known, progress=progress, on_row=on_row)


def _examined(
    rows: Iterable[Row],
    options: DataOptions,
    findings: Findings,
    *,
    known: Remembered,
    progress: Progress,
    on_row: OnRow | None,
) -> list[Counted]:
    examples: list[Counted] = []
    uncaptioned: list[str] = []
    lacking: dict[str, list[str]] = {}  # what columns are missing -> the rows that lack them
    alike: dict[str, list[str]] = {}  # what is wrong with a cell -> the rows where it is
    num_rows, values = 0, options.weight_of_value
    for row in rows:
        progress.update(num_rows := num_rows + 1)
        try:
            found, weights = _captions(row, options)
        except captions.NoColumn as error:
            lacking.setdefault(str(error), []).append(row.where)
            continue
        except ValueError as error:
            findings.problems.append(f"{row.where}: {error}")
            continue
        if not found:
            uncaptioned.append(row.where)
            if options.instance_prompt is not None:
                found = (" ".join(options.instance_prompt.split()),)
                findings.notes.append(Note("images whose caption is --instance_prompt", row.name))
            elif options.missing_caption == "error":
                continue
            elif options.missing_caption == "skip":
                findings.skipped.append(f"{row.name}: no caption")
                continue
        found = tuple(tags.dressed(caption, options) for caption in found)
        findings.problems += caption_rules.problems(row.where, found, options)
        example = _read_example(row, found or ("",), options, findings, known)
        if isinstance(example, Example) and weights:
            example = dataclasses.replace(example, weights=weights)
        if isinstance(example, Example):
            said, lacking_cells = said_by(
                row.description, balance=options.balance, weight=options.weight_column, values=values
            )
            for problem in lacking_cells:
                alike.setdefault(problem, []).append(row.where)
            example = dataclasses.replace(example, **said) if said else example
        if on_row is not None:
            on_row(row, example)
        if isinstance(example, Example):
            examples.append((example, row.repeats * options.repeats))
        elif options.on_bad_image == "skip":
            findings.skipped.append(f"{row.name}: {example}")
        else:
            findings.problems.append(f"{row.where}: {example} (--on_bad_image skip leaves it out)")
    steps = "; ".join(["see --caption_column and --caption_template", *findings.hints[:MAX_HINTS]])
    without = {f"{missing}; {steps}": names for missing, names in lacking.items()}
    findings.problems += _together(alike, MOST_ALIKE) + _together(without, 1)
    if options.instance_prompt is None:
        findings.problems += _without_captions(uncaptioned, num_rows, options, findings.hints)
    return examples


def _together(problems: dict[str, list[str]], most: int) -> list[str]:
    """A line for each row with a problem, but where more than so many have the same: then one for all of them."""
    return [
        f"{where}: {problem}"
        for problem, names in problems.items()
        for where in (names if len(names) <= most else [f"{names[0]} and {len(names) - 1} more"])
    ]


def _captions(row: Row, options: DataOptions) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The captions of a row and their weights.

    Raises as `texts_of` and `weighed`, but for a lacking column where there is --instance_prompt.
    """
    separate, template = options.caption_lines == "separate", options.caption_template
    try:
        texts = captions.texts_of(row.description, options.caption_columns, template, separate_lines=separate)
        weights: Sequence[float] = options.weights
        if options.column_dropout and template is not None and isinstance(row.description, Mapping):
            texts, weights = left_out.combinations(template, row.description, options.column_dropout)
    except captions.NoColumn:
        if options.instance_prompt is None:
            raise
        return (), ()
    if options.prompt_weights == "strip":
        texts = [prompt_weights.without_weights(text) for text in texts]
    # A caption of which every column was left out may say nothing, and is shown as often as that is drawn.
    empty = options.column_dropout > 0
    return captions.weighed(texts if any(texts) else [], weights if any(texts) else (), with_empty=empty)


def _without_captions(names: list[str], num_rows: int, options: DataOptions, hints: list[str]) -> list[str]:
    """What to say of images without a caption; where none has any, what else may hold them."""
    if names and len(names) == num_rows:
        steps = hints[:MAX_HINTS] or ["write a caption for each into a .txt file of the same name"]
        last = "or give all of them the same with --instance_prompt"
        return [f"not one of the {num_rows} images has a caption: {'; '.join([*steps, last])}"]
    if options.missing_caption != "error":
        return []
    lets = "--missing_caption skip or empty lets it through, --instance_prompt gives it one"
    return [f"{name}: no caption ({lets})" for name in names]


def manifest_of(origin: str, examples: list[Counted], findings: Findings) -> Manifest:
    """The manifest of what was gathered. Raises DataError with all that was found wrong."""
    origin = printable(origin)
    if findings.problems:
        problems = [printable(problem) for problem in findings.problems]
        raise DataError(f"{origin}: {len(problems)} problem(s) in the dataset.\n{listed(problems)}")
    return in_order(origin, examples, findings)


def in_order(origin: str, examples: list[Counted], findings: Findings) -> Manifest:
    """The manifest of what was gathered, whatever else was found. Raises DataError where there is nothing."""
    origin = printable(origin)
    if not examples:
        reasons = [*findings.hints, *(f"left out, {problem}" for problem in findings.skipped)]
        more = f"; and {len(reasons) - MAX_HINTS} more" if len(reasons) > MAX_HINTS else ""
        why = f": {'; '.join(reasons[:MAX_HINTS])}{more}" if reasons else ""
        raise DataError(printable(f"{origin} holds no usable image (.png, .jpg, .webp and others){why}."))
    seen: dict[str, list[str]] = collections.defaultdict(list)
    counts: collections.Counter[str] = collections.Counter()
    all_of_them = []
    in_groups: dict[str, set[str | None]] = collections.defaultdict(set)
    for example, repeats in sorted(examples, key=lambda pair: (pair[0].id, pair[0].name)):
        seen[example.id].append(example.name)
        in_groups[example.id].add(example.group)
        for _ in range(repeats):
            copy = counts[example.id]
            counts[example.id] += 1
            # An exact copy keeps its own draws, or it would merely double the weight of one.
            name = f"{example.id}-{copy + 1}"
            all_of_them.append(dataclasses.replace(example, id=name, copy=copy) if copy else example)
    kind = "the same image and caption in several groups of --balance"
    findings.notes += [Note(kind, " = ".join(seen[name])) for name, found in in_groups.items() if len(found) > 1]
    return Manifest(
        origin,
        tuple(all_of_them),
        skipped=tuple(sorted(map(printable, findings.skipped))),
        duplicates=tuple(" = ".join(copies) for copies in seen.values() if len(copies) > 1),
        notes=tuple(Note(printable(note.kind), printable(note.case)) for note in findings.notes),
    )


def _read_example(
    row: Row, found: tuple[str, ...], options: DataOptions, findings: Findings, known: Remembered
) -> Example | str:
    """The example, or in a few words why its image cannot be used."""

    def look(content: bytes) -> list[Any]:
        picture, remark = images.examine(io.BytesIO(content), options.alpha_background, options.max_image_megapixels)
        return [digest(content), picture.width, picture.height, remark, near.sketch_of(picture)]

    try:
        image_id, width, height, remark, sketch = _facts(row.source, "", look, known)
        mask_id = "" if row.mask is None else _mask_id(row.mask, width / height, options, known)
    except Exception as error:  # Pillow raises many kinds; each means the same to the user
        return images.reason_of(error)
    if remark is not None:
        findings.notes.append(Note(remark, row.name))
    identity = digest("\n".join([image_id, *found, *([mask_id] if mask_id else [])]).encode())
    size = Size(width, height)
    name = printable(row.name)
    return Example(
        identity, image_id, name, row.source, found, size, options, sketch=sketch, mask=row.mask, mask_id=mask_id
    )


def _facts(source: Source, kind: str, look: Callable[[bytes], list[Any]], known: Remembered) -> list[Any]:
    """What `look` finds out about the bytes of an image, remembered as facts of this kind; ValueError without bytes."""
    name, signature = source.known_as()
    facts: list[Any] | None = known.recall(kind + name, signature)
    if facts is None:
        content = source.content()
        if not content:
            raise ValueError("there is nothing in it")
        facts = look(content)
        known.keep(kind + name, source.settled(signature), facts)
    return facts


def _mask_id(mask: Source, shape: float, options: DataOptions, known: Remembered) -> str:
    """The hash of a mask. Raises ValueError for one of another shape than its image, or without anything to look at."""

    def look(content: bytes) -> list[Any]:
        picture = images.mask(content, options.max_image_megapixels)
        return [digest(content), picture.width, picture.height, picture.getextrema()[1]]

    mask_id, width, height, brightest = _facts(mask, "mask ", look, known)
    if abs(width / height / shape - 1) > MASK_SHAPE_TOLERANCE:
        raise ValueError(f"its mask is {width} x {height}, which is another shape")
    if not brightest:
        raise ValueError("its mask is black all over, so nothing of it would be learnt; remove the image or the mask")
    return str(mask_id)
