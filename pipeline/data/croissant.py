"""A folder of pictures and captions described in Croissant 1.0, the JSON-LD that dataset catalogues and loaders read.

https://docs.mlcommons.org/croissant/docs/croissant-spec.html. Two files lie beside the pictures: the description, and
the table it refers to, with a row for each caption.
"""

import collections
import csv
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.data.card import Card
from pipeline.data.manifest import Manifest, by_name
from pipeline.data.rows import FileSource
from pipeline.errors import ConfigError

FILE, TABLE = "croissant.json", "croissant.csv"
COLUMNS = {  # of the table, each with what it holds
    "path": "Where the picture lies, from this folder on.",
    "file_name": "The name of its file.",
    "caption": "What it shows, in words; a picture may have several captions, in rows of their own.",
    "sha256": "The SHA-256 of the file.",
}
TERMS = (
    "citeAs", "column", "extract", "field", "fileProperty", "fileObject", "fileSet", "format", "includes",
    "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex", "repeated",
    "replace", "samplingRate", "separator", "source", "subField", "transform", "equivalentProperty",
)  # fmt: skip
CONTEXT: dict[str, Any] = {  # as the specification has it
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    **{term: f"cr:{term}" for term in sorted(TERMS)},
}


@dataclass(frozen=True)
class Picture:
    """A picture file of a dataset."""

    path: str  # from the dataset's folder on
    captions: tuple[str, ...]
    sha256: str
    kind: str  # its media type

    @property
    def file_name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]


def pictures_in(manifest: Manifest, folder: Path) -> list[Picture]:
    """The pictures of a dataset's folder. Raises ConfigError if some do not lie in it."""
    found, outside = list[Picture](), list[str]()
    for example in by_name(manifest.distinct()):
        assert isinstance(example.source, FileSource), "a folder holds files"
        path = Path(os.path.relpath(example.source.place, folder)).as_posix()
        if path.startswith("../"):
            outside.append(example.name)
            continue
        content = example.source.content()
        with Image.open(io.BytesIO(content)) as opened:
            kind = opened.get_format_mimetype() or "application/octet-stream"
        found.append(Picture(path, example.written, hashlib.sha256(content).hexdigest(), kind))
    if outside:
        names = ", ".join(outside[:3]) + (f" and {len(outside) - 3} more" if len(outside) > 3 else "")
        raise ConfigError(f"--croissant describes what lies in {folder}, and {names} does not; move it there.")
    return found


def table_of(pictures: Iterable[Picture]) -> str:
    """The table that the description refers to, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for picture in pictures:
        writer.writerows((picture.path, picture.file_name, caption, picture.sha256) for caption in picture.captions)
    return text.getvalue()


def description(name: str, card: Card | None, pictures: Sequence[Picture], table: str, folder: Path) -> dict[str, Any]:
    """The description itself; what a card would say is left out where there is none."""
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        **(_declared(card) if card is not None else {"description": "Pictures with captions."}),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "table",
                "name": "table",
                "description": "A row for each caption.",
                "contentUrl": TABLE,
                "encodingFormat": "text/csv",
                "sha256": hashlib.sha256(table.encode()).hexdigest(),
            },
            {
                "@type": "cr:FileSet",
                "@id": "files",
                "name": "files",
                "description": "The pictures.",
                "encodingFormat": sorted({picture.kind for picture in pictures}),
                "includes": _patterns(pictures),
            },
        ],
        "recordSet": [_records(pictures, folder)],
    }


def _declared(card: Card) -> dict[str, Any]:
    """What a person declared about the dataset."""
    people = "recognisable" if card.people.identifiable else "none that can be recognised"
    consent = f" ({card.people.consent})" if card.people.consent is not None else ""
    said = {
        "Source": card.source,
        "Why it may be used": card.rights_basis,
        "People": people + consent,
        "Sensitive content": card.sensitive_content,
        "Intended use": card.intended_use,
    }
    found: dict[str, Any] = {
        "description": " ".join(["Pictures with captions.", *(f"{name}: {text}." for name, text in said.items())]),
        "license": card.license_link or card.license,
    }
    if card.dataset_id is not None:
        found["url"] = f"https://huggingface.co/datasets/{card.dataset_id}"
    return found | ({"citeAs": card.citation} if card.citation is not None else {})


def _patterns(pictures: Iterable[Picture]) -> list[str]:
    """Globs for the files, which may match others too: the table says which count."""
    suffixes = {Path(picture.file_name).suffix for picture in pictures}
    bare = {picture.path for picture in pictures if not Path(picture.file_name).suffix}
    return sorted({f"*{suffix}" for suffix in suffixes if suffix} | bare)


def _records(pictures: Sequence[Picture], folder: Path) -> dict[str, Any]:
    """A record for each caption: the picture, found by its file's name or, where several are called so, by its path."""
    suffixes = tuple({Path(picture.file_name).suffix for picture in pictures})
    names = collections.Counter(name for _, _, some in os.walk(folder) for name in some if name.endswith(suffixes))
    is_unique = all(names[picture.file_name] == 1 for picture in pictures)
    key, of_file = ("file_name", "filename") if is_unique else ("path", "fullpath")
    fields: list[dict[str, Any]] = [
        _field(name, said, "sc:Text", {"fileObject": {"@id": "table"}, "extract": {"column": name}})
        for name, said in COLUMNS.items()
    ]
    for field in fields:
        if field["name"] == key:
            field["references"] = {"fileSet": {"@id": "files"}, "extract": {"fileProperty": of_file}}
    image = {"fileSet": {"@id": "files"}, "extract": {"fileProperty": "content"}}
    fields.append(_field("image", "The picture.", "sc:ImageObject", image))
    said = "A picture with a caption."
    return {"@type": "cr:RecordSet", "@id": "pictures", "name": "pictures", "description": said, "field": fields}


def _field(name: str, said: str, kind: str, source: dict[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"pictures/{name}",
        "name": name,
        "description": said,
        "dataType": kind,
        "source": source,
    }
