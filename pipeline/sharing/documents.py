"""What a run knows of its base and data for the adapter's card, kept with its results to be shared later."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from pipeline import atomic, records, shipped
from pipeline.data.card import Card, People
from pipeline.errors import CheckpointError, ConfigError, UserError
from pipeline.families.base import Family
from pipeline.families.options import ModelOptions
from pipeline.hashing import digest
from pipeline.sharing import card, hub
from pipeline.sharing.card import BaseModel
from pipeline.sharing.redact import redactor

FILE = "documents.json"
LICENSE_FIELDS = ("license", "license_name", "license_link")
TEMPLATE_TAG = "template:sd-lora"  # of the Hub's gallery of adapters


def base_model(model: ModelOptions, family: Family, guidance_scale: float) -> BaseModel:
    """The base as its adapter's card names it; what lies on this machine has no id."""
    given, config = model.pretrained_model_name_or_path, model.single_file_config
    vae, card = model.pretrained_vae_model_name_or_path, family.source.card
    return BaseModel(
        hub_id=given if given and not Path(given).exists() else None,
        name=Path(given or shipped.BASE).name,
        pipeline_class=family.pipeline_class,
        **{name: card[name] if isinstance(card.get(name), str) else None for name in LICENSE_FIELDS},
        template_tag=TEMPLATE_TAG,
        guidance_scale=guidance_scale,
        kind="folder" if family.source.file is None else "file",
        title=card["pretty_name"] if isinstance(card.get("pretty_name"), str) else None,
        vae=None if vae is None else _shown(vae),
        vae_class=None if vae is None else family.source.index["vae"][1],
        config=None if config is None else _shown(config),
    )


def for_header(base: BaseModel, trigger_word: str | None) -> dict[str, str]:
    """Base, trigger word and license by the names that `inspect` reads, for a file's header; nothing private."""
    word = trigger_word if trigger_word and redactor(trigger_word)(trigger_word) == trigger_word else None
    redact = redactor(word or "")
    facts = {
        "base_model": base.hub_id or base.title or base.name,
        "trigger": word,
        "licence": base.license_name or base.license,
    }
    return {name: value for name, value in facts.items() if value and redact(value) == value}


def _shown(name: str) -> str:
    """A Hub id as it is, and no more of a path than its end."""
    return Path(name).name if Path(name).exists() else name


def keep(folder: Path, base: BaseModel, data: Card | None, reason: str | None) -> None:
    """Keep what the card needs beside the run's results."""
    facts = {"base": dataclasses.asdict(base), "data": dataclasses.asdict(data) if data else None, "reason": reason}
    atomic.write_text(folder / FILE, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def write_card(folder: Path, repo: str | None = None, reason: str | None = None) -> Path:
    """Write the adapter's card from what was kept; `reason` stands in for a card of the data that is missing.

    What was written is noted, and so is the reason. Raises CheckpointError for a folder that holds no whole run.
    """
    facts = _kept(folder)
    reason = reason or facts["reason"]
    try:
        data = facts["data"] and Card(**{**facts["data"], "people": People(**facts["data"]["people"])})
        path = card.write(folder, BaseModel(**facts["base"]), data or None, reason, repo)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} holds no whole run ({type(error).__name__}: {error}).") from error
    facts = {**facts, "reason": reason, "written": digest(path.read_bytes())}
    atomic.write_text(folder / FILE, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    return path


def is_edited(folder: Path) -> bool:
    """Whether somebody has changed the card since it was written: then it is theirs."""
    written, path = _kept(folder).get("written"), folder / hub.CARD
    return written is not None and path.is_file() and digest(path.read_bytes()) != written


def _kept(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no finished run ({FILE} is missing); give the output folder of one.")
    facts = records.table_in(path)
    missing = {"base", "data", "reason"} - facts.keys()
    if missing:
        raise CheckpointError(
            f"{path} lacks {', '.join(sorted(missing))}; put back what the run wrote, or train again."
        )
    return facts


def require_documented(folder: Path, reason: str | None) -> None:
    """Raise ConfigError if a run may not be shared: its data has no card, and no reason was given."""
    facts = _kept(folder)
    if facts["data"] is None and not (reason or facts["reason"]):
        raise ConfigError(
            'The data of this run has no card: say why with --allow_undocumented_data "reason", which will be shown, '
            "or train again with a card (data_cards/<name>.md)."
        )
