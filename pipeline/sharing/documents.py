"""What a run knows of its base and data for the adapter's card, kept with its results to be shared later."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import yaml

from pipeline import durable
from pipeline.data import card as data_cards
from pipeline.data.card import Card, People
from pipeline.errors import CheckpointError, ConfigError
from pipeline.sharing import card
from pipeline.sharing.card import BaseModel

FILE = "documents.json"
TEMPLATE_TAG = "template:sd-lora"  # of the Hub's gallery of adapters


def base_model(folder: Path, hub_id: str | None, pipeline_class: str, guidance_scale: float) -> BaseModel:
    """What the base says of itself: the front matter of a README.md in its folder, where there is one."""
    front: dict[str, Any] = {}
    readme = folder / "README.md"
    match = data_cards.FRONT.match(readme.read_text(encoding="utf-8", errors="replace")) if readme.is_file() else None
    if match:
        try:
            loaded = yaml.safe_load(match[1])
            front = loaded if isinstance(loaded, dict) else {}
        except yaml.YAMLError:  # somebody else's page: then its terms are unknown to us
            front = {}
    said = {name: front[name] if isinstance(front.get(name), str) else None for name in LICENSE_FIELDS}
    name = hub_id.split("/")[-1] if hub_id else folder.name
    return BaseModel(hub_id, name, pipeline_class, **said, template_tag=TEMPLATE_TAG, guidance_scale=guidance_scale)


LICENSE_FIELDS = ("license", "license_name", "license_link")


def keep(folder: Path, base: BaseModel, data: Card | None, reason: str | None) -> None:
    """Keep what the card needs beside the run's results."""
    facts = {"base": dataclasses.asdict(base), "data": dataclasses.asdict(data) if data else None, "reason": reason}
    durable.write_text(folder / FILE, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def write_card(folder: Path, repo: str | None = None, reason: str | None = None) -> Path:
    """Write the adapter's card from what was kept; `reason` stands in for a card of the data that is missing."""
    facts = _kept(folder)
    data = facts["data"] and Card(**{**facts["data"], "people": People(**facts["data"]["people"])})
    return card.write(folder, BaseModel(**facts["base"]), data or None, reason or facts["reason"], repo)


def _kept(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no finished run ({FILE} is missing); give the output folder of one.")
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def require_documented(folder: Path, reason: str | None) -> None:
    """Raise ConfigError if a run may not be shared: its data has no card, and no reason was given."""
    facts = _kept(folder)
    if facts["data"] is None and not (reason or facts["reason"]):
        raise ConfigError(
            'The data of this run has no card: say why with --allow_undocumented_data "reason", which will be shown, '
            "or train again with a card (data_cards/<name>.md)."
        )
