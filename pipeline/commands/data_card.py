"""Beginning the card of a dataset, and the part of it that is counted."""

import html
import re
from pathlib import Path

from pipeline import atomic
from pipeline.audit.audit import Audit
from pipeline.data import captions, card
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.errors import ConfigError, DataError

BEGIN = "<!-- counted by `python -m pipeline check --card`: what stands here is written anew -->"
NO_FINGERPRINT = re.compile(r'^fingerprint: *(?:null|~|"null")? *$', re.MULTILINE)
END = "<!-- end of what was counted -->"


def begin(name: str, dataset: Path | None) -> Path:
    """Write data_cards/NAME.md to be filled in, noting which data it is for.

    Raises ConfigError for a name that is none, a card that is there, or a folder that is not.
    """
    path = card.FOLDER / f"{name}.md"
    if not name or path.parent != card.FOLDER or name.startswith("."):
        raise ConfigError(f"card {name!r}: give the last part of the dataset's folder or Hub id, without a slash.")
    if path.exists():
        raise ConfigError(f"{path} exists; change it by hand.")
    if dataset is not None and not dataset.is_dir():
        raise ConfigError(f"--dataset {dataset} does not exist; give a folder of images.")
    fingerprint = read_manifest(dataset, DataOptions()).data_fingerprint if dataset is not None else None
    atomic.write_text(path, card.template(name, fingerprint))
    return path


def fill(found: Audit, path: Path) -> str:
    """Put what an audit counted into a card, begun where there is none; returns what is left to do.

    What people wrote stays as it is. A fingerprint is filled in where there is none, and never exchanged: that is for
    somebody who has seen that the card is still true. Raises ConfigError for a dataset of which nothing can be used.
    """
    if found.manifest is None:
        raise ConfigError(f"--card {path}: nothing of the dataset can be used.")
    fingerprint = found.manifest.data_fingerprint
    try:
        text = captions.read_text(path) if path.is_file() else card.template(path.stem, None)
    except ValueError as error:
        raise ConfigError(f"--card {error}.") from error
    if BEGIN in text and END not in text.partition(BEGIN)[2]:
        raise ConfigError(f"--card {path} lacks the line {END!r} after what was counted; put it back.")
    if not found.num_errors:  # or it would be that of data which nobody trains on
        text = re.sub(
            r"^fingerprint: *(?:null|~|\"null\")? *$", f'fingerprint: "{fingerprint}"', text, count=1, flags=re.M
        )
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    block = "\n".join([BEGIN, "", *block_lines(found), "", END])
    atomic.write_text(
        path, f"{before.rstrip()}\n\n{block}\n{after.lstrip()}" if rest else f"{text.rstrip()}\n\n{block}\n"
    )
    try:
        card.require_same_data(card.read(path), path, fingerprint)
    except DataError as error:
        return str(error)
    return f"{path} is complete."


def block_lines(found: Audit) -> list[str]:
    """The counts of an audit as Markdown."""
    rows = [(name, f"{value:g}") for name, value in found.numbers().items()]
    rows += [("sizes shown", ", ".join(f"{number} of {size}" for size, number in found.sizes.items()))]
    rows += [
        (f"{column.name} (evenness {column.evenness:.2f})", ", ".join(f"{v} {n}" for v, n in column.counts.items()))
        for column in found.columns
    ]
    rows += [(f"{one.weight}: {one.title}", str(len(one.cases))) for one in found.findings]
    cells = [[html.escape(" ".join(text.split()), quote=False).replace("|", "\\|") for text in row] for row in rows]
    return ["| counted | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)]
