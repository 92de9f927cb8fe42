"""report.html: one self-contained page made from what a run left in its output folder, and from nothing else."""

import base64
import io
import json
import math
import tomllib
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from pipeline import durable, status
from pipeline.adapter import formats
from pipeline.errors import CheckpointError
from pipeline.evaluation import unseen
from pipeline.evaluation.previews import INDEX, kept
from pipeline.report import charts, heldout
from pipeline.training import tracking
from pipeline.training.tracking import clock

FILE = "report.html"
NUM_ROWS = 12
MAX_SIDE = 512  # pixels: larger pictures are shrunk for the page


def write(folder: Path) -> Path:
    """Make the page of a finished run; CheckpointError if the folder holds none."""
    if not (folder / "result.json").is_file():
        raise CheckpointError(f"{folder} holds no finished run (result.json is missing).")
    loader = jinja2.PackageLoader("pipeline.report", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    path = folder / FILE
    durable.write_text(path, environment.get_template("run.html").render(**content(folder)))
    return path


def content(folder: Path) -> dict[str, Any]:
    """Everything the page says, from the run's own files."""
    run = tomllib.loads((folder / "run.toml").read_text(encoding="utf-8"))
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    steps = [row for row in tracking.read(folder) if "loss" in row]
    losses = [float(row["loss"]) for row in steps]
    evaluation = _json_or_none(folder / unseen.FILE)
    return {
        "name": folder.resolve().name,
        "headline": headline(evaluation, len(steps)),
        "rows": picture_rows(folder),
        "previews": preview_rows(folder),
        "figures": figures(evaluation),
        "judge": evaluation["judge"] if evaluation else "",
        "chart": charts.curve([row["step"] for row in steps], losses, "training loss over optimizer steps"),
        "held_out": heldout.section(steps, result["kept_step"]),
        "plan": environment["plan"],
        "notes": environment["notes"],
        "cost": cost(steps, result, environment),
        "verdict": result["verdict"],
        "snippet": snippet(folder, run, environment["base_model"]),
        "again": f"python train_lora.py --config {folder.name}/run.toml --output_dir {folder.name}-again",
        "versions": {key: value for key, value in environment.items() if isinstance(value, str | int)},
        "state": _json_or_none(folder / status.FILE) or {},
    }


def headline(evaluation: dict[str, Any] | None, num_steps: int) -> str:
    """One sentence for somebody who reads no further."""
    if evaluation is None:
        return f"An adapter after {num_steps} steps, proven to load in stock diffusers."
    base, tuned = (evaluation["sets"][name]["kid"]["value"] for name in ("base", "tuned"))
    if tuned >= base:
        return (
            f"On {evaluation['n']} captions of things it was never shown in this style, it is no nearer to the true "
            f"pictures than the base model is: {tuned:.3g} away, the base {base:.3g}."
        )
    return (
        f"On {evaluation['n']} captions of things it was never shown in this style, the distance to the true pictures "
        f"fell to {tuned / base:.0%} of the base model's."
    )


def picture_rows(folder: Path) -> list[dict[str, str]]:
    """Base, tuned and truth, side by side, for captions spread over the unseen set."""
    folders = [folder / "samples" / name for name in (unseen.BASE, unseen.TUNED, unseen.TRUTH)]
    if not all((path / INDEX).is_file() for path in folders):
        return []
    pairs = list(zip(*map(kept, folders), strict=True))
    chosen = pairs[:: max(1, len(pairs) // NUM_ROWS)][:NUM_ROWS]
    return [
        {
            "caption": before["prompt"],
            "seed": str(before["seed"]),
            "base": embedded(before["path"]),
            "tuned": embedded(after["path"]),
            "truth": embedded(truth["path"]),
        }
        for before, after, truth in chosen
    ]


def preview_rows(folder: Path) -> list[dict[str, Any]]:
    """The previews, a row per prompt: base first, then every step that was drawn."""
    folders = [folder / "samples" / "base", *sorted((folder / "samples").glob("step-*"))]
    columns = [(path.name, kept(path)) for path in folders if (path / INDEX).is_file()]
    if len(columns) < 2:
        return []
    rows = []
    for number, shot in enumerate(columns[0][1]):
        cells = [(name, embedded(shots[number]["path"])) for name, shots in columns]
        rows.append({"caption": shot["prompt"], "cells": cells})
    return rows


def figures(evaluation: dict[str, Any] | None) -> list[dict[str, str]]:
    """The measured table: one row per quantity, base beside tuned beside the ceiling of real pictures."""
    if evaluation is None:
        return []
    sets = evaluation["sets"]
    rows = [("Distance to the true pictures (KID, lower is better)", "kid", "{:.3f}")]
    rows += [("Subject recognised at first guess", "top1", "{:.0%}"), ("Subject among five guesses", "top5", "{:.0%}")]

    def cell(name: str, key: str, form: str) -> str:
        value = sets[name].get(key)
        if value is None:
            return "0 by definition"
        low, high = (form.format(value[end]) for end in ("low", "high"))
        return f"{form.format(value['value'])} [{low}, {high}]"

    return [
        {"label": label, **{name: cell(name, key, form) for name in ("base", "tuned", "truth")}}
        for label, key, form in rows
    ]


def cost(steps: list[dict[str, Any]], result: dict[str, Any], environment: dict[str, Any]) -> list[tuple[str, str]]:
    """What the run took."""
    seconds = sorted(float(row["seconds"]) for row in steps)
    training = math.fsum(seconds)
    return [
        ("training", f"{clock(training)} for {len(steps)} steps"),
        ("median step", f"{seconds[len(seconds) // 2]:.2f} s" if seconds else "none"),
        ("last session, everything", clock(result["seconds"])),
        ("where", f"{environment['device']}, {environment['threads']} threads, {environment['platform']}"),
    ]


def snippet(folder: Path, run: dict[str, Any], base_model: str) -> str:
    """Plain diffusers code that makes the first picture of the page again."""
    index = folder / "samples" / unseen.TUNED / INDEX
    index = index if index.is_file() else next(iter(sorted((folder / "samples").glob(f"step-*/{INDEX}"))), index)
    shot = kept(index.parent)[0] if index.is_file() else None
    variant = f", variant={run['variant']!r}" if "variant" in run else ""
    prompt, seed = (shot["prompt"], shot["seed"]) if shot else ("your prompt", run["seed"])
    return f"""import torch
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained({base_model!r}{variant})
pipe.load_lora_weights({str(folder)!r}, weight_name={formats.FILE!r})
image = pipe(
    {prompt!r},
    guidance_scale={run["guidance_scale"]}, num_inference_steps={run["num_inference_steps"]},
    generator=torch.Generator().manual_seed({seed}),
).images[0]"""


def embedded(path: Path) -> str:
    """A picture as a data URL, shrunk to MAX_SIDE if larger."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _json_or_none(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
