"""The card of a dataset: who made it, whether it may be trained on, and who is in it, as a person declared it.

A card is Markdown with YAML front matter, in the form of a dataset card of the Hub. What is checked is that somebody
declared something, not that it is true.
"""

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import DataError, listed
from pipeline.front_matter import FRONT, has_front_matter
from pipeline.hub_ids import HUB_ID

FOLDER = Path("data_cards")
REQUIRED = ("license", "source", "rights_basis", "people", "sensitive_content", "intended_use")
OPTIONAL = ("license_name", "license_link", "pretty_name", "dataset_id", "fingerprint", "citation")
PLACEHOLDER = re.compile(r"(?:TODO|TBD|FIXME)\b.*|todo|tbd|\W*|.*<[A-Za-z][\w ,'-]*>.*", re.DOTALL)
# What the Hub takes as a license (its message for any other, May 2026); a card with something else is refused there.
IDENTIFIERS = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
    other
"""
LICENSES = frozenset(IDENTIFIERS.split())
EXAMPLES = {
    "license": "cc-by-4.0",
    "source": "photos by the author, taken in 2026",
    "rights_basis": "own work",
    "sensitive_content": "none",
    "intended_use": "a style for illustrations",
    "license_name": "my-license-1.0",
    "license_link": "https://example.org/license",
    "people.consent": "signed releases, kept by the author",
}

TEMPLATE = """---
pretty_name: {name}
license: "TODO: as in cc-by-4.0, see https://hf.co/docs/hub/repositories-licenses"
# license_name: and license_link: as well where the license is other
source: "TODO: where the pictures and the captions come from"
rights_basis: "TODO: why they may be trained on: own work, a license, a contract, consent"
people:
  identifiable: TODO
  # consent: how they agreed, where somebody can be recognised
sensitive_content: "TODO: nudity, violence, health, children, ..., or none"
intended_use: "TODO: what a model trained on it is for, and what not"
# dataset_id: user/name on the Hub, where the dataset is public there
# citation: how to cite it
fingerprint: {fingerprint}
task_categories: [text-to-image]
---

# {title}

**What it is.** What the pictures show, how many there are, how the captions were written.

**How it was collected.** By whom, when, from where; who agreed to what.

**Who and what is in it.** People, places, brands; what is frequent, what is missing.

**Limits.** What a model trained on it will get wrong.
"""


@dataclass(frozen=True)
class People:
    """Whether somebody in the pictures can be recognised, and then how they agreed."""

    identifiable: bool
    consent: str | None = None


@dataclass(frozen=True)
class Card:
    """What a person declared about a dataset."""

    license: str  # an identifier of the Hub, in small letters or as SPDX writes it
    source: str
    rights_basis: str
    people: People
    sensitive_content: str
    intended_use: str
    license_name: str | None = None
    license_link: str | None = None
    pretty_name: str | None = None
    dataset_id: str | None = None  # on the Hub, where the dataset is public
    fingerprint: str | None = None  # of the manifest the card was written for
    citation: str | None = None


def read(path: Path) -> Card:
    """The card in a file. Raises DataError with everything missing, left as a placeholder or of a wrong type."""
    front = _front_matter(path)
    problems: list[str] = []
    texts = {name: _text(front, name, problems) for name in (*REQUIRED, *OPTIONAL) if name != "people"}
    people = _people(front, problems)
    problems += _clashes(texts)
    if problems or people is None:
        raise DataError(f"{path}: {len(problems)} problem(s) in the card of the dataset.\n{listed(problems)}")
    return Card(people=people, **texts)  # type: ignore[arg-type]  # required ones are no None: that was a problem


def require_same_data(card: Card, path: Path, fingerprint: str) -> None:
    """Raise DataError if the card says what data it was written for and these are other data."""
    if card.fingerprint not in (None, "null", fingerprint):  # versions before 2026-11-29 put the word in quotes
        raise DataError(
            f"{path} was written for other data (fingerprint {card.fingerprint}, now {fingerprint}): the dataset "
            f'changed. See whether the card is still true, then put fingerprint: "{fingerprint}" in it.'
        )


def find(name: str, folder: Path | None) -> Path | None:
    """The card of a dataset: data_cards/NAME.md here, else README.md in its folder if that has front matter.

    Of a name with folders in it (`user/name`, `photos/dog`) the last part counts.
    """
    path = FOLDER / f"{Path(name).name}.md"
    if Path(name).name and path.is_file():
        return path
    readme = folder / "README.md" if folder is not None else path
    return readme if has_front_matter(readme) else None


def template(name: str, fingerprint: str | None) -> str:
    """A new card to fill in; as long as it is not, `read` names what is left to do."""
    title = " ".join(name.split())
    return TEMPLATE.format(name=json.dumps(title, ensure_ascii=False), title=title, fingerprint=json.dumps(fingerprint))


def _front_matter(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path} does not exist; a card is a Markdown file that begins with YAML between two ---.")
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8.") from error
    found = FRONT.match(text)
    if found is None:
        raise DataError(f"{path} has no front matter: begin it with a line ---, the fields as YAML, and a line ---.")
    try:
        front = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1 + text.count(chr(10), 0, found.start(1))}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DataError(
            f"{path}{line}: the front matter is no YAML ({reason}); put text that holds ': ' or '#' in quotes."
        ) from error
    if not isinstance(front, dict):
        raise DataError(f"{path}: the front matter holds no fields; write one per line, as in 'license: cc-by-4.0'.")
    return {str(key): value for key, value in front.items()}


def _text(front: dict[str, Any], name: str, problems: list[str]) -> str | None:
    """A field that is text, stripped; a problem where it has to be there and is not, or is anything else."""
    value = front.get(name)
    if value is None or value == "":
        if name in front:
            problems.append(f"{name} is empty; {_advice(name)}")
        elif name in REQUIRED:
            problems.append(f"{name} is missing; {_near(front, name) or _advice(name)}")
        return None
    if not isinstance(value, str):
        kind = type(value).__name__
        problems.append(f"{name} is {value!r}, which YAML reads as {kind}; it is text: put it in quotes")
        return None
    if PLACEHOLDER.fullmatch(value.strip()):
        problems.append(f"{name} is still {value.strip()!r}; {_advice(name)}")
        return None
    return value.strip()


def _near(front: dict[str, Any], name: str) -> str | None:
    """The field that was probably meant for this one."""
    unknown = [key for key in front if key not in (*REQUIRED, *OPTIONAL)]
    near = difflib.get_close_matches(name, unknown, 1, 0.8)
    return f"there is {near[0]!r}, which is no field" if near else None


def _advice(name: str) -> str:
    return f"say it, as in '{name}: {EXAMPLES[name]}'" if name in EXAMPLES else "say it or leave it out"


def _people(front: dict[str, Any], problems: list[str]) -> People | None:
    """Who can be recognised; a problem where that or their consent is missing."""
    value, before = front.get("people"), len(problems)
    if not isinstance(value, dict):
        given = "missing" if "people" not in front else "empty" if value in (None, "") else repr(value)
        problems.append(f"people is {given}; it holds identifiable, as in 'people: {{identifiable: false}}'")
        return None
    inner = {f"people.{key}": field for key, field in value.items()}
    identifiable = inner.get("people.identifiable")
    if not isinstance(identifiable, bool):
        given = repr(identifiable) if "people.identifiable" in inner else "missing"
        problems.append(f"people.identifiable is {given}; it is true where somebody can be recognised, else false")
    consent = _text(inner, "people.consent", problems)
    if identifiable is True and "people.consent" not in inner:
        problems.append(f"people.consent is missing, and somebody can be recognised; {_advice('people.consent')}")
    return People(bool(identifiable), consent) if len(problems) == before else None


def _clashes(texts: dict[str, str | None]) -> list[str]:
    """What does not go together, and identifiers that are none."""
    problems = []
    license, dataset_id = texts["license"], texts["dataset_id"]
    if license is not None and license.lower() not in LICENSES:
        near = difflib.get_close_matches(license.lower(), LICENSES, 1) or ["cc-by-4.0"]
        problems.append(
            f"license is {license!r}, which the Hub does not know; give its identifier, as {near[0]}, or other with "
            "license_name and license_link"
        )
    if license is not None and license.lower() == "other":
        absent = [name for name in ("license_name", "license_link") if texts[name] is None]
        problems += [f"{name} is missing; a license that is other needs it: {_advice(name)}" for name in absent]
    if dataset_id is not None and not HUB_ID.fullmatch(dataset_id):
        problems.append(f"dataset_id is {dataset_id!r}; give the dataset's id on the Hub, user/name, or leave it out")
    return problems
