"""Captions as they lie beside images: metadata.jsonl, or one .txt per image."""

import json
from pathlib import Path

METADATA = "metadata.jsonl"


def read_text(path: Path) -> str:
    """A text file as UTF-8, without byte-order mark. Raises ValueError that names the byte it fails at."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: byte {error.start} (0x{raw[error.start]:02x}) is not UTF-8; save the file as UTF-8"
        ) from error


def read_sidecar(image: Path) -> str | None:
    """The caption in the .txt beside an image, its lines joined by spaces; None without such a file."""
    path = image.with_suffix(".txt")
    return " ".join(read_text(path).split()) if path.is_file() else None


def read_metadata(path: Path, image_column: str, caption_column: str) -> tuple[dict[str, str | None], list[str]]:
    """File name -> caption (None where empty) from a metadata.jsonl, and what is wrong with its rows."""
    captions: dict[str, str | None] = {}
    problems: list[str] = []
    uncaptioned: dict[str, list[int]] = {}  # the columns there are -> the lines that have only those
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"{path.name}, line {number}: not JSON ({error.msg})")
            continue
        if not isinstance(row, dict) or image_column not in row:
            columns = ", ".join(sorted(row)) if isinstance(row, dict) else type(row).__name__
            problems.append(f"{path.name}, line {number}: no {image_column!r} (there is {columns}); see --image_column")
            continue
        name = str(row[image_column])
        if caption_column not in row:
            available = ", ".join(sorted(key for key in row if key != image_column)) or "nothing else"
            uncaptioned.setdefault(available, []).append(number)
            continue
        caption = row[caption_column]
        if not isinstance(caption, str | None):
            problems.append(f"{path.name}, line {number}: the caption is {type(caption).__name__}, not text")
            continue
        if name in captions:
            problems.append(f"{path.name}, line {number}: {name} already has a row")
            continue
        captions[name] = " ".join(caption.split()) or None if caption else None
    for available, lines in uncaptioned.items():
        where = f"line {lines[0]}" + (f" and {len(lines) - 1} more" if len(lines) > 1 else "")
        problems.append(f"{path.name}, {where}: no {caption_column!r} (there is {available}); see --caption_column")
    return captions, problems
