"""The model card, README.md of an output folder: what a run left in its files, and nothing that is private."""

import dataclasses
import json
import math
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import yaml

from pipeline import atomic
from pipeline.data.captions import has_word
from pipeline.data.card import HUB_ID, LICENSES, Card
from pipeline.errors import CheckpointError
from pipeline.evaluation import png_metadata, unseen
from pipeline.evaluation.previews import INDEX, kept, spread
from pipeline.sharing import hub
from pipeline.sharing.private import cleaned, cleaner
from pipeline.training import tracking

MAX_PAIRS = 8  # of pictures, base beside tuned
HUB = "https://huggingface.co"
Kind = Literal["folder", "file", "starter"]


@dataclass(frozen=True)
class BaseModel:
    """The model that was adapted, as its own card describes it."""

    hub_id: str | None  # None for a model on this machine
    name: str  # of the folder or file, or the last part of the Hub id
    pipeline_class: str  # in diffusers
    license: str | None  # None where it is unknown
    license_name: str | None
    license_link: str | None
    template_tag: str  # of the Hub's widget for its adapters, as template:sd-lora
    guidance_scale: float  # to draw with
    kind: Kind = "folder"  # where it has no Hub id
    vae: str | None = None  # Hub id or name of an autoencoder to use instead of its own
    vae_class: str | None = None
    config: str | None = None  # of a file: the Hub id or the name of the folder that its configuration was taken from


class Quoted(str):
    """Text that YAML always shows in double quotes, so that every reader takes it for text."""


class Front(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML is not typed
    """Writes front matter."""


Front.add_representer(Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def write(folder: Path, base: BaseModel, data: Card | None, reason: str | None, repo: str | None = None) -> Path:
    """Write the card of a finished run; CheckpointError if the folder holds none.

    `reason` says why there is no card of the dataset; `repo` is the Hub id the adapter is shared under, if known.
    """
    if not (folder / "result.json").is_file():
        raise CheckpointError(f"{folder} holds no finished run (result.json is missing).")
    templates = jinja2.PackageLoader("pipeline.sharing", "templates")
    environment = jinja2.Environment(loader=templates, undefined=jinja2.StrictUndefined, trim_blocks=True)
    # It is Markdown, so nothing is escaped by itself: what is not ours passes `md`, or `code` within Python.
    environment.filters |= {"md": escaped, "estimate": estimate, "code": repr}
    text = environment.get_template("card.md").render(**content(folder, base, data, reason), repo=repo)
    path = folder / hub.CARD
    atomic.write_text(path, re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")
    return path


def content(folder: Path, base: BaseModel, data: Card | None, reason: str | None) -> dict[str, Any]:
    """Everything the card says, from the run's own files and without what is private."""
    raw = tomllib.loads((folder / hub.SETTINGS).read_text(encoding="utf-8"))
    word = raw.get("trigger_word")
    private = cleaner(word or "")
    trigger = word if word and private(word) == word else None
    run, result = cleaned(raw, private), cleaned(_json(folder / "result.json"), private)
    environment, evaluation = (cleaned(_json(folder / name), private) for name in ("environment.json", unseen.FILE))
    found = {
        name: cleaned(getattr(base, name), private) for name in ("name", "config", "vae", "license", "license_name")
    }
    hub_id = base.hub_id if base.hub_id and HUB_ID.fullmatch(base.hub_id) else None
    base = dataclasses.replace(base, hub_id=hub_id, **found)
    declared = {**cleaned(dataclasses.asdict(data), private), "dataset_id": data.dataset_id} if data else None
    steps = [row for row in tracking.read(folder) if "loss" in row]
    kept_step = result.get("kept_step")
    shown, num_hidden = pairs(folder, kept_step, private)
    shots = [tuned for _, tuned in shown]
    shot = next((row for row in shots if trigger is None or has_word(row["prompt"], trigger)), {})
    return {
        "front": front_matter(base, declared, trigger, shots),
        "title": private(folder.resolve().name),
        "base": base,
        "license_link": license_link(base),
        "run": run,
        "environment": environment,
        "result": result,
        "evaluation": evaluation,
        "data": declared,
        "reason": private(reason) if reason else None,
        "trigger": trigger,
        "last_step": steps[-1]["step"] if steps else None,
        "kept_step": kept_step,
        "batch": len(steps[-1].get("ids", [])) or None if steps else None,
        "peak_rate": max((float(row["learning_rate"]) for row in steps if "learning_rate" in row), default=None),
        "held_out": held_out_change(steps, kept_step),
        "pairs": shown,
        "num_hidden": num_hidden,
        "marked": all(png_metadata.is_marked(folder / row["url"]) for pair in shown for row in pair),
        "weights": hub.ADAPTER,
        "prompt": shot.get("prompt", trigger or "a picture"),
        "size": shot.get("resolution", environment["resolution"]),
        "guidance_scale": shot.get("guidance_scale", base.guidance_scale),
        "seed": shot.get("seed", run.get("seed", 0)),
    }


def front_matter(
    base: BaseModel, declared: dict[str, Any] | None, trigger: str | None, shots: list[dict[str, Any]]
) -> str:
    """What the Hub reads: the base, the license, the widget's pictures; every text survives YAML."""
    front: dict[str, Any] = {"base_model": base.hub_id, "base_model_relation": "adapter"} if base.hub_id else {}
    front |= {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "license": (base.license or "unknown").lower(),
    }
    if front["license"] not in LICENSES - {"other"}:
        name = base.license_name or (base.license if front["license"] != "other" else None)
        slug = re.sub(r"[^a-z0-9.]+", "-", (name or "").lower()).strip("-.")
        fields = {"license_name": slug, "license_link": license_link(base)}
        front |= {"license": "other", **{key: value for key, value in fields.items() if value}}
    if trigger:
        front["instance_prompt"] = Quoted(trigger)
    if declared and declared["dataset_id"]:
        front["datasets"] = [declared["dataset_id"]]
    front["tags"] = ["text-to-image", "diffusers", "lora", base.template_tag]
    if shots:
        front["widget"] = [{"text": Quoted(row["prompt"]), "output": {"url": row["url"]}} for row in shots]
    text: str = yaml.dump(front, Dumper=Front, sort_keys=False, allow_unicode=True, width=10**6)
    return text


def license_link(base: BaseModel) -> str | None:
    """Where the license of the base can be read by anybody; its card may name a file beside itself."""
    link = base.license_link or ""
    if not link or re.search(r"[\s<>]", link):
        return None
    if re.match(r"https?://", link):
        return link
    return f"{HUB}/{base.hub_id}/blob/main/{link.removeprefix('./')}" if base.hub_id else None


def pairs(
    folder: Path, kept_step: int | None, private: Callable[[str], str]
) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], int]:
    """Pictures to show, base beside tuned, and how many are not shown because of their prompts.

    Only what a model drew: true pictures belong to the dataset.
    """
    found: list[tuple[dict[str, Any], dict[str, Any]]] = []
    num_hidden = 0
    for before, after in (("base", f"step-{kept_step or 0:06d}"), (unseen.BASE, unseen.TUNED)):
        base = {(row["prompt"], row["seed"]): row for row in _rows(folder, before)}
        both = [(base[key], row) for row in _rows(folder, after) if (key := (row["prompt"], row["seed"])) in base]
        shown = [pair for pair in both if private(pair[1]["prompt"]) == pair[1]["prompt"]]
        num_hidden += len(both) - len(shown)
        taken = {tuned["prompt"] for _, tuned in found}
        found += spread([pair for pair in shown if pair[1]["prompt"] not in taken], MAX_PAIRS - len(found))
    return found, num_hidden


def held_out_change(steps: list[dict[str, Any]], kept_step: int | None) -> dict[str, Any] | None:
    """The change of the held-out loss at the step handed over, as shares of the base's loss."""
    row = next((row["validation"] for row in steps if row["step"] == kept_step and "validation" in row), None)
    if row is None:
        return None
    change, base = row["held_out_change"], row["held_out_base"]
    return {**{end: float(change[end]) / base for end in ("value", "low", "high")}, "n": change["n"]}


def estimate(found: dict[str, Any], form: str) -> str:
    """A measured value with its interval; of one example there is none."""
    value, low, high = (float(found[name]) for name in ("value", "low", "high"))
    interval = f"[{form.format(low)}, {form.format(high)}]" if math.isfinite(high - low) else "(no interval)"
    return f"{form.format(value)} {interval}"


def escaped(text: object) -> str:
    """Any text as one line of Markdown that shows it and does nothing else."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", " ".join(str(text).split()))


def _rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """The pictures of a folder of samples/ that are there, each with its path from the output folder as `url`."""
    if not (folder / "samples" / name / INDEX).is_file():
        return []
    rows = [row for row in kept(folder / "samples" / name) if row["path"].is_file()]
    return [{**row, "url": f"samples/{name}/{row['file']}"} for row in rows]


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found
