"""The rows of a folder of images: what its metadata files list, or each image with the caption file beside it."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.data import captions, images, metadata
from pipeline.data.folder import Contents, orphans, stem_of
from pipeline.data.options import DataOptions
from pipeline.data.rows import Columns, FileSource, Findings, Row
from pipeline.notes import Note

REPEATS = re.compile(r"(\d{1,3})_(.+)")  # of folders for kohya's scripts; four digits are a year


def folder_rows(contents: Contents, options: DataOptions, findings: Findings) -> Iterator[Row]:
    """The rows of a folder; whatever does not fit together goes to `findings`.

    A metadata file at the top lists all images, one further down those of its own folder.
    """
    tables = _tables(contents, findings)
    for name in contents.unread:
        text = f"{name}: {Path(name).suffix} is not read; {images.remedy(Path(name).suffix)}"
        if options.on_bad_image == "skip":
            findings.skipped.append(text)
        else:
            findings.problems.append(f"{text} (--on_bad_image skip leaves it out)")
    alone = dict(contents.images)
    for folder, table in sorted(tables.items(), key=lambda pair: -pair[0].count("/") - bool(pair[0])):
        prefix = f"{folder}/" if folder else ""
        own = {name: alone.pop(name) for name in list(alone) if name.startswith(prefix)}
        yield from _listed_rows(contents, table, own, options, findings)
    if tables:
        kind = "left out: caption files of images that a metadata file describes, or of none"
        findings.notes += [Note(kind, name) for name in orphans(contents.captions, alone)]
        kind = "no repeats are read from names like N_words beside a metadata file"
        findings.notes += [Note(kind, f"{folder}/") for folder in _named_for_repeats(contents.images)]
    elif options.caption_template is not None:
        findings.problems.append(
            "--caption_template takes its words from columns, and there is no metadata.jsonl, .csv or .parquet"
        )
    if alone or not tables:
        yield from _captioned_rows(contents, alone, options, findings, repeated=not tables)


def _tables(contents: Contents, findings: Findings) -> dict[str, str]:
    """The metadata file of each folder that has one; with one at the top, those further down do not count."""
    for names in contents.tables.values():
        if len(names) > 1:
            findings.problems.append(f"there are {' and '.join(names)}; keep one, for they might disagree")
    tables = {folder: names[0] for folder, names in contents.tables.items()}
    if "" not in tables:
        return tables
    kind = f"left out: {tables['']} at the top lists the images"
    findings.notes += [Note(kind, name) for folder, name in sorted(tables.items()) if folder]
    return {"": tables[""]}


def _listed_rows(
    contents: Contents, table: str, found: dict[str, Path], options: DataOptions, findings: Findings
) -> Iterator[Row]:
    """The files that a metadata file lists; rows without a file and files without a row are problems."""
    folder = table.rpartition("/")[0]
    prefix = f"{folder}/" if folder else ""
    place = contents.root / folder
    names = metadata.Names(place, {name.removeprefix(prefix): path for name, path in found.items()})
    wrong: list[str] = []
    seen: dict[str, tuple[str, Columns]] = {}
    for where, columns in metadata.read(contents.root / table, table, options, wrong):
        column = metadata.image_column(columns, options)
        if column not in columns:
            there = ", ".join(sorted(columns))
            wrong.append(f"{where}: no {column!r} (there is {there}); see --image_column")
            continue
        if columns[column] in (None, ""):
            wrong.append(f"{where}: {column!r} is empty")
            continue
        try:
            name = prefix + names.of(str(columns[column]))
        except ValueError as error:
            wrong.append(f"{where}: {error}")
            continue
        if name in seen:
            wrong.append(f"{where}: {name} already has a row")
        else:
            seen[name] = where, {key: value for key, value in columns.items() if key != column}
    findings.problems += wrong
    alike = {key: name for name in found for key in (name.casefold(), stem_of(name))}
    for name in sorted(seen.keys() - found.keys() - set(contents.unread)):
        reason = "it is not read as an image" if (contents.root / name).exists() else "there is no such file"
        if near := alike.get(name, alike.get(name.casefold())):
            reason += f"; write {near.removeprefix(prefix)}"
        findings.problems.append(f"{table}: {name} has a row but {reason}")
    if not wrong:
        findings.problems += [f"{name}: has no row in {table}" for name in sorted(found.keys() - seen.keys())]
    for name in sorted(found.keys() & seen.keys()):
        where, columns = seen[name]
        yield Row(name, f"{where}, {name}", FileSource(str(found[name])), columns, mask=_mask(contents, name))


def _captioned_rows(
    contents: Contents, found: dict[str, Path], options: DataOptions, findings: Findings, *, repeated: bool
) -> Iterator[Row]:
    """Images with the text in the caption file beside each, or else with the words of its folder's name."""
    counted = _repeats(found, findings) if repeated else {}
    unnamed: Counter[str] = Counter()  # folders whose words some images got
    for name, path in found.items():
        top = name.split("/")[0]
        repeats, words = counted.get(top, (1, None))
        try:
            text = _text(contents, name, options, findings)
        except ValueError as error:
            findings.problems.append(str(error))
            continue
        if not (text or "").strip() and words is not None and options.instance_prompt is None:
            text = words
            unnamed[top] += 1
        yield Row(name, name, FileSource(str(path)), text, repeats, _mask(contents, name))
    for top, (repeats, words) in counted.items():
        times = f"each image counts {repeats} times" if repeats > 1 else "each image counts once"
        given = "; captions from their files"
        if unnamed[top]:
            given = f"; caption {words!r} for {unnamed[top]} without a caption file"
        elif options.instance_prompt is not None:
            given = "; captions from their files or --instance_prompt"
        findings.notes.append(Note("repeats from the names of folders", f"{top}/: {times}{given}"))
    if repeated:
        without = orphans(contents.captions, [*found, *contents.unread])
        findings.notes += [Note("left out: caption files without an image", name) for name in without]


def _mask(contents: Contents, name: str) -> FileSource | None:
    return FileSource(str(contents.masks[name])) if name in contents.masks else None


def _text(contents: Contents, name: str, options: DataOptions, findings: Findings) -> str | None:
    """The text beside an image, None without a caption file. Raises ValueError if there are two that differ."""
    texts: dict[str, str] = {}  # the text, white space evened out -> the file that holds it
    found = None
    for key in dict.fromkeys((name, stem_of(name))):
        for file in contents.captions.get(key, ()):
            text = captions.read_text(contents.root / file)
            if text.strip() or found is None:
                found = text
            if text.strip():
                texts.setdefault(" ".join(text.split()), file)
    if len(texts) > 1:
        raise ValueError(
            f"{name}: {' and '.join(texts.values())} are two captions of one image; remove one, or say which "
            "with --caption_extension"
        )
    if found is not None and options.caption_lines == "joined" and len(found.strip().splitlines()) > 1:
        kind = "caption files with several lines, read as one caption (--caption_lines separate: each is a caption)"
        findings.notes.append(Note(kind, next(iter(texts.values()))))
    return found


def _repeats(found: dict[str, Path], findings: Findings) -> dict[str, tuple[int, str]]:
    """Repeats and words of each folder where all images lie in folders named N_words, as for kohya's scripts."""
    tops = {name.split("/")[0] for name in found if "/" in name}
    named = {top: match for top in sorted(tops) if (match := REPEATS.fullmatch(top)) and int(match[1]) > 0}
    if named and len(named) == len(tops) and all("/" in name for name in found):
        return {top: (int(match[1]), match[2].strip()) for top, match in named.items()}
    similar = _named_for_repeats(found)
    rule = "repeats and captions come from names like N_words only where every image lies in such a folder"
    if similar:
        findings.hints.append(f"{rule} directly in the dataset folder, and {similar[0]}/ is one among others")
    findings.notes += [Note(f"{rule}, so not here", f"{folder}/") for folder in similar]
    return {}


def _named_for_repeats(names: Iterable[str]) -> list[str]:
    """The folders of these images that are named N_words."""
    folders = {name.rpartition("/")[0] for name in names}
    return [folder for folder in sorted(folders) if REPEATS.fullmatch(folder.rpartition("/")[2])]
