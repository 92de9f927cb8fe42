"""report.html: one self-contained page made from what a run left in its output folder, and from nothing else."""

import json
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jinja2

from pipeline import atomic, status
from pipeline.adapter import formats
from pipeline.console import clock
from pipeline.errors import CheckpointError
from pipeline.evaluation import unseen
from pipeline.evaluation.previews import INDEX, kept
from pipeline.report import charts, dataset, heldout, pictures
from pipeline.report.advice import advice
from pipeline.training import tracking

FILE = "report.html"
BUDGET = {
    "data": "reading data",
    "encode": "encoding pictures and captions",
    "step": "training steps",
    "validate": "held-out loss",
    "save": "saving checkpoints",
    "draw": "drawing and measuring pictures",
    "check": "checking the hand-over",
    "idle": "imports, loading, waiting",
}


def write(folder: Path) -> Path:
    """Make the page of a finished run; CheckpointError if the folder holds none."""
    if not (folder / "result.json").is_file():
        raise CheckpointError(f"{folder} holds no finished run (result.json is missing).")
    loader = jinja2.PackageLoader("pipeline.report", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    path = folder / FILE
    atomic.write_text(path, environment.get_template("run.html").render(**content(folder)))
    return path


def content(folder: Path) -> dict[str, Any]:
    """Everything the page says, from the run's own files."""
    run = tomllib.loads((folder / "run.toml").read_text(encoding="utf-8"))
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    steps = [row for row in tracking.read(folder) if "loss" in row]
    evaluation, samples = _json_or_none(folder / unseen.FILE), folder / "samples"
    data = dataset.section(samples, result["data"], environment["resolution"])
    return {
        "name": folder.resolve().name,
        "headline": headline(evaluation, len(steps)),
        "rows": pictures.unseen_rows(samples),
        "grid": pictures.grid(samples),
        "previews": pictures.preview_rows(samples),
        "figures": figures(evaluation),
        "measured_by": measured_by(evaluation),
        "chart": charts.curve(
            [row["step"] for row in steps], [float(row["loss"]) for row in steps], "training loss over optimizer steps"
        ),
        "held_out": heldout.section(steps, result["kept_step"]),
        "advice": advice(steps, result["kept_step"], run, result["budget"]),
        "data": {"words": data["words"], "rows": pictures.data_rows(data["rows"])} if data else None,
        "plan": environment["plan"],
        "notes": environment["notes"],
        "cost": cost(steps, environment, result.get("peak_memory")),
        "budget": budget(result["budget"]),
        "verdict": result["verdict"],
        "snippet": snippet(folder, run, environment["base_model"], environment["resolution"]),
        "again": again(folder),
        "versions": {key: value for key, value in environment.items() if isinstance(value, str | int)},
        "state": _json_or_none(folder / status.FILE) or {},
    }


def again(folder: Path) -> str:
    """The command line of a second run like this one."""
    return shlex.join(["python", "train_lora.py", "--config", f"{folder}/run.toml", "--output_dir", f"{folder}-again"])


def headline(evaluation: dict[str, Any] | None, num_steps: int) -> str:
    """One sentence for somebody who reads no further."""
    if evaluation is None or "kid" not in evaluation["sets"]["tuned"]:
        return f"An adapter after {num_steps} steps, proven to load in stock diffusers."
    base, tuned = (evaluation["sets"][name]["kid"] for name in ("base", "tuned"))
    told = f"On {evaluation['n']} captions of pictures it was never trained on,"
    if tuned["high"] < base["low"]:
        share = max(0.0, tuned["value"]) / base["value"]
        return f"{told} the distance to the true pictures fell to {share:.0%} of the base model's."
    if tuned["value"] >= base["value"]:
        return (
            f"{told} it is no nearer to the true pictures than the base model is: {tuned['value']:.3g} away (KID), the "
            f"base {base['value']:.3g}."
        )
    return (
        f"{told} its distance to the true pictures is {tuned['value']:.3g} (KID) where the base model's is "
        f"{base['value']:.3g}; the intervals still touch."
    )


def figures(evaluation: dict[str, Any] | None) -> list[dict[str, str]]:
    """The measured table: one row per quantity, base beside tuned beside the ceiling of real pictures."""
    if evaluation is None:
        return []
    sets = evaluation["sets"]
    rows = (
        ("Distance to the true pictures (KID, lower is better)", "kid", "{:.3f}", "0 by definition"),
        ("Subject recognised at first guess", "top1", "{:.0%}", ""),
        ("Subject among five guesses", "top5", "{:.0%}", ""),
        ("Nearer to its own caption than to the others (CLIP margin)", "clip_margin", "{:.3f}", ""),
        ("Change of that margin from the base, picture by picture", "clip_margin_change", "{:+.3f}", ""),
    )

    def cell(name: str, key: str, form: str, otherwise: str) -> str:
        value = sets[name].get(key)
        if value is None:
            return otherwise
        low, high = (form.format(value[end]) for end in ("low", "high"))
        return f"{form.format(value['value'])} [{low}, {high}]"

    return [
        {"label": label, **{name: cell(name, key, form, otherwise) for name in ("base", "tuned", "truth")}}
        for label, key, form, otherwise in rows
        if key in sets["tuned"]
    ]


def measured_by(evaluation: dict[str, Any] | None) -> str:
    """Who measured, on how much: a figure means nothing without both."""
    if evaluation is None:
        return ""
    names = [evaluation["judge"] and f"KID and subjects: {evaluation['judge']}"]
    names += [evaluation["reader"] and f"CLIP margin: {evaluation['reader']}"]
    return f"Value and 95 % interval over {evaluation['n']} captions. {'; '.join(name for name in names if name)}."


def budget(seconds: dict[str, float]) -> list[dict[str, Any]]:
    """Where the time of the last session went, the largest share first."""
    total = sum(seconds.values()) or 1.0
    shares = sorted(((value / total, key) for key, value in seconds.items()), reverse=True)
    return [
        {"name": BUDGET[key], "time": clock(seconds[key]), "share": share} for share, key in shares if share >= 0.001
    ]


def cost(steps: list[dict[str, Any]], environment: dict[str, Any], peak_memory: int | None) -> list[tuple[str, str]]:
    """What the run took; `peak_memory` in bytes of the GPU."""
    seconds = sorted(float(row["seconds"]) for row in steps)
    memory = [("memory", f"at most {peak_memory / 2**30:.1f} GiB of the GPU")] if peak_memory is not None else []
    return [
        ("training", f"{clock(sum(seconds))} for {len(steps)} steps"),
        ("median step", f"{seconds[len(seconds) // 2]:.2f} s" if seconds else "none"),
        *memory,
        ("where", f"{environment['device']}, {environment['threads']} threads, {environment['platform']}"),
    ]


def snippet(folder: Path, run: dict[str, Any], base_model: str, pixels: int) -> str:
    """Plain diffusers code that makes the first picture of the page again."""
    index = folder / "samples" / unseen.TUNED / INDEX
    index = index if index.is_file() else next(iter(sorted((folder / "samples").glob(f"step-*/{INDEX}"))), index)
    shot = kept(index.parent)[0] if index.is_file() else None
    prompt, seed = (shot["prompt"], shot["seed"]) if shot else ("your prompt", run["seed"])
    which = "".join(f", {name}={run[name]!r}" for name in ("revision", "variant") if name in run)
    return f"""import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained({base_model!r}{which})
pipe.load_lora_weights({str(folder)!r}, weight_name={formats.FILE!r})
image = pipe(
    {prompt!r}, height={pixels}, width={pixels},
    guidance_scale={run["guidance_scale"]}, num_inference_steps={run["num_inference_steps"]},
    generator=torch.Generator().manual_seed({seed}),
).images[0]"""


def _json_or_none(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
