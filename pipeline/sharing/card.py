"""The model card, README.md of an output folder: what a run left in its files, and nothing that is private."""

import dataclasses
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import yaml

from pipeline import atomic, records
from pipeline.data.captions import has_word
from pipeline.data.card import LICENSES, Card
from pipeline.evaluation import memorisation, png_metadata, results, snippet, test_set
from pipeline.evaluation.fairness import record as fairness
from pipeline.evaluation.fairness import tables
from pipeline.evaluation.fairness.record import Fairness
from pipeline.evaluation.frontier import found as frontiers
from pipeline.evaluation.frontier.found import Frontier
from pipeline.evaluation.metrics.table import METRICS
from pipeline.evaluation.picture_sets import INDEX, kept
from pipeline.evaluation.previews import spread
from pipeline.families import registry, schedules
from pipeline.hub_ids import HUB_ID
from pipeline.sampling.options import GuidanceOptions
from pipeline.sharing import hub
from pipeline.sharing.redact import redacted, redactor
from pipeline.training import result, tracking

MAX_PAIRS = 8  # of pictures, base beside adapted
HUB = "https://huggingface.co"
Kind = Literal["folder", "file"]


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
    title: str | None = None  # what its own card calls it
    vae: str | None = None  # Hub id or name of an autoencoder to use instead of its own
    vae_class: str | None = None
    config: str | None = None  # of a file: the Hub id or the name of the folder that its configuration was taken from


class Quoted(str):
    """Text that YAML always shows in double quotes, so that every reader takes it for text."""


class Front(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML is not typed
    """Writes front matter."""


Front.add_representer(Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def write(folder: Path, base: BaseModel, data: Card | None, reason: str | None, repo: str | None = None) -> Path:
    """Write the card of a finished run. Raises CheckpointError if the folder holds none, or a damaged file of one.

    `reason` says why there is no card of the dataset; `repo` is the Hub id the adapter is shared under, if known.
    """
    text = template().render(**content(folder, base, data, reason), repo=repo)
    path = folder / hub.CARD
    atomic.write_text(path, re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")
    return path


@functools.cache
def template() -> jinja2.Template:
    """The card's, in Markdown: nothing is escaped by itself, what is not ours passes `md`, or `code` in Python."""
    templates = jinja2.PackageLoader("pipeline.sharing", "templates")
    environment = jinja2.Environment(loader=templates, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"md": escaped, "code": repr}
    return environment.get_template("card.md")


def content(folder: Path, base: BaseModel, data: Card | None, reason: str | None) -> dict[str, Any]:
    """Everything the card says, from the run's own files and without what is private."""
    finished = result.read(folder)
    raw = records.table_in(folder / hub.SETTINGS)
    given = [table.get("trigger_word", raw.get("trigger_word")) for table in raw.get("source", [{}])]
    words = list(dict.fromkeys(word for word in given if word is not None))
    word = ", ".join(words)
    private = redactor(word)
    trigger = word if word and private(word) == word else None
    run, environment = redacted(raw, private), redacted(_table(folder / "environment.json"), private)
    evaluation, steps = results.read(folder), tracking.read(folder)
    found = {
        name: redacted(getattr(base, name), private) for name in ("name", "config", "vae", "license", "license_name")
    }
    hub_id = base.hub_id if base.hub_id and HUB_ID.fullmatch(base.hub_id) else None
    base = dataclasses.replace(base, hub_id=hub_id, **found)
    declared = {**redacted(dataclasses.asdict(data), private), "dataset_id": data.dataset_id} if data else None
    validation = tracking.validation_at(steps, finished.kept_step)
    shown, num_hidden = pairs(folder, finished.kept_step, private)
    requests = [adapted for _, adapted in shown]
    request = next((row for row in requests if trigger is None or any(has_word(row["prompt"], w) for w in words)), {})
    scale, seed = request.get("guidance_scale", base.guidance_scale), request.get("seed", run.get("seed", 0))
    return {
        "front": front_matter(base, declared, trigger, requests),
        "title": private(folder.resolve().name),
        "base": base,
        "license_link": license_link(base),
        "run": run,
        "chunks": whole(run, "prompt_chunks", 1),
        "skip": whole(run, "clip_skip", 0),
        "schedule": "\n".join(schedules.as_code(raw)),
        "is_xl": base.pipeline_class == "StableDiffusionXLPipeline",
        "environment": environment,
        "result": finished,
        "metrics": [redacted(vars(row), private) for row in results.rows(evaluation)] if evaluation else [],
        "num_captions": evaluation.n if evaluation else None,
        "data": declared,
        "reason": private(reason) if reason else None,
        "trigger": trigger,
        "has_trigger": bool(word),
        "has_triggers": len(words) > 1,
        "trigger_everywhere": None not in given,
        "balance": private(finished.data.balance) if finished.data.balance is not None else None,
        "last_step": steps[-1].step if steps else None,
        "batch": len(steps[-1].ids) if steps else None,
        "peak_rate": max((row.learning_rate for row in steps), default=None),
        "held_out": validation.held_out_share if validation else None,
        "memorised": memorisation.of_adapter(folder),
        "is_of_another": memorisation.is_of_another(folder),
        "fairness": of_groups(fairness.of_adapter(folder), private),
        "frontier": of_points(frontiers.of_adapter(folder), private),
        "pairs": shown,
        "num_hidden": num_hidden,
        "marked": all(png_metadata.is_marked(folder / row["url"]) for pair in shown for row in pair),
        "weights": hub.ADAPTER,
        "prompt": request.get("prompt", trigger or "a picture"),
        "width": request.get("width", environment["size"][0]),
        "height": request.get("height", environment["size"][1]),
        **guided(GuidanceOptions.of(raw), scale, seed, base.pipeline_class),
    }


def whole(run: dict[str, Any], name: str, otherwise: int) -> int:
    """A number of run.toml that becomes code; what somebody has put in its place does not."""
    value = run.get(name)
    return value if isinstance(value, int) else otherwise


def guided(guidance: GuidanceOptions, scale: float, seed: int, pipeline_class: str) -> dict[str, Any]:
    """What the code of the card draws with: the pipeline's scale, the seed, and how it is guided where not as usual."""
    code = snippet.code(guidance, scale, seed, registry.class_of(pipeline_class))
    return {"guidance_scale": guidance.stock_scale(scale), "guided": code, "seed": seed}


def of_groups(found: Fairness | None, private: Callable[[str], str]) -> dict[str, Any] | None:
    """What the card says of groups: in words, how many of each were trained on, and the measure the words are of."""
    if found is None:
        return None
    one, shown = found.foremost, {row["name"]: row for row in tables.groups(found)}
    measured = tables.table(one) if one is not None else None
    rows = [{**row, "trained": shown[row["name"]]["trained"]} for row in measured["rows"][:-1]] if measured else []
    return {
        "words": private(found.words()),
        "by": private(found.by),
        "label": measured["label"] if measured else "",
        "rows": [redacted(row, private) for row in rows],
    }


def of_points(found: Frontier | None, private: Callable[[str], str]) -> dict[str, Any] | None:
    """What the card says of the frontier: the three ways of drawing that it names, with their numbers."""
    if found is None:
        return None
    adherence, diversity = METRICS[found.measured.adherence], METRICS[found.measured.diversity]
    rows = [
        {
            "wish": wish,
            "way": row.setting.title,
            "adherence": row.adherence.text(adherence.form),
            "diversity": row.diversity.text("{:.3f}"),
            "kid": row.kid.text("{:.3f}") if row.kid is not None else "",
        }
        for wish, row in found.points.items()
    ]
    measured = f"{adherence.label} ({adherence.short}), by {found.measured.adherence_by}; {diversity.label.lower()}"
    measured = private(f"{measured}, by {found.measured.diversity_by}")
    return {"rows": rows, "measured": measured, "captions": len(found.captions)}


def front_matter(
    base: BaseModel, declared: dict[str, Any] | None, trigger: str | None, requests: list[dict[str, Any]]
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
    if requests:
        front["widget"] = [{"text": Quoted(row["prompt"]), "output": {"url": row["url"]}} for row in requests]
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
    folder: Path, kept_step: int, private: Callable[[str], str]
) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], int]:
    """Pictures to show, base beside adapted, and how many are not shown because of their prompts.

    Only what a model drew: reference pictures belong to the dataset.
    """
    found: list[tuple[dict[str, Any], dict[str, Any]]] = []
    num_hidden = 0
    for before, after in (("base", f"step-{kept_step:06d}"), (test_set.BASE, test_set.ADAPTED)):
        base = {(row["prompt"], row["seed"]): row for row in _rows(folder, before)}
        both = [(base[key], row) for row in _rows(folder, after) if (key := (row["prompt"], row["seed"])) in base]
        shown = [pair for pair in both if private(pair[1]["prompt"]) == pair[1]["prompt"]]
        num_hidden += len(both) - len(shown)
        taken = {adapted["prompt"] for _, adapted in found}
        found += spread([pair for pair in shown if pair[1]["prompt"] not in taken], MAX_PAIRS - len(found))
    return found, num_hidden


def escaped(text: object) -> str:
    """Any text as one line of Markdown that shows it and does nothing else."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", " ".join(str(text).split()))


def _rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """The pictures of a folder of samples/ that are there, each with its path from the output folder as `url`."""
    if not (folder / "samples" / name / INDEX).is_file():
        return []
    rows = [row for row in kept(folder / "samples" / name) if row["path"].is_file()]
    return [{**row, "url": f"samples/{name}/{row['file']}"} for row in rows]


def _table(path: Path) -> dict[str, Any]:
    return records.table_in(path) if path.is_file() else {}
