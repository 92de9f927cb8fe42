"""report.html: one self-contained page made from what a run left in its output folder, and from nothing else."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import atomic, records
from pipeline.console import clock
from pipeline.errors import CheckpointError
from pipeline.evaluation import results, test_set
from pipeline.evaluation.adapter_hash import hash_of
from pipeline.evaluation.extractors import photographs
from pipeline.evaluation.metrics.measure import Estimate
from pipeline.evaluation.picture_sets import INDEX, kept
from pipeline.evaluation.results import Evaluation
from pipeline.geometry import Size
from pipeline.report import charts, class_loss, dataset, heldout, pictures
from pipeline.report.advice import advice
from pipeline.report.plain_code import Drawn, Model, plain
from pipeline.report.rendering import template
from pipeline.sampling.options import GuidanceOptions
from pipeline.training import result, tracking
from pipeline.training.tracking import StepRow

FILE = "report.html"
PHASES = {
    "data": "reading data",
    "encode": "encoding pictures and captions",
    "step": "training steps",
    "validate": "held-out loss",
    "save": "saving checkpoints",
    "draw": "drawing and measuring pictures",
    "check": "verifying the adapter",
    "idle": "imports, loading, waiting",
}


def write(folder: Path) -> Path:
    """Make the page of a finished run. Raises CheckpointError if the folder holds none, or a damaged file of one."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} does not exist; give the output folder of a run.")
    path = folder / FILE
    atomic.write_text(path, template("run.html").render(**content(folder)))
    return path


def content(folder: Path) -> dict[str, Any]:
    """Everything the page says, from the run's own files."""
    found = result.read(folder)
    run = records.table_in(folder / "run.toml")
    environment = records.table_in(folder / "environment.json")
    steps, evaluation = tracking.read(folder), results.read(folder)
    samples, size = folder / "samples", Size(*environment["size"])
    data = dataset.section(samples, found.data, size)
    return {
        "name": folder.resolve().name,
        "folder": shlex.quote(str(folder)),
        "headline": headline(evaluation, len(steps)),
        "rows": pictures.test_rows(samples),
        "grid": pictures.grid(samples),
        "previews": pictures.preview_rows(samples),
        "opinions": opinions(evaluation),
        "metrics": results.rows(evaluation) if evaluation else [],
        "measured_by": measured_by(evaluation) if evaluation else "",
        "chart": charts.curve(
            [row.step for row in steps], [row.loss for row in steps], "training loss over optimizer steps"
        ),
        "held_out": heldout.section(steps, found.kept_step),
        "of_class": class_loss.section(steps, found.kept_step, run),
        "advice": advice(steps, found.kept_step, run, found.seconds),
        "data": {"words": data["words"], "rows": pictures.data_rows(data["rows"])} if data else None,
        "plan": environment["plan"],
        "notes": environment["notes"],
        "cost": cost(steps, environment, found.peak_memory),
        "phases": phases(found.seconds),
        "verification": found.verification,
        "is_exchanged": found.verification.file not in (None, hash_of(folder)),
        "snippet": snippet(folder, run, environment, size),
        "again": again(folder),
        "versions": {key: value for key, value in environment.items() if isinstance(value, str | int)},
    }


def again(folder: Path) -> str:
    """The command line of a second run like this one."""
    return shlex.join(["python", "train_lora.py", "--config", f"{folder}/run.toml", "--output_dir", f"{folder}-again"])


def headline(evaluation: Evaluation | None, num_steps: int) -> str:
    """One sentence for somebody who reads no further, by a judge that t2i-lora did not train where there is one."""
    judges = judges_of(evaluation)
    if evaluation is None or not judges:
        return f"An adapter after {num_steps} steps, proven to load in stock diffusers."
    base, adapted = judges[0].base, judges[0].adapted
    scope = f"On {evaluation.n} captions of pictures it was never trained on,"
    if judges[0].is_nearer:
        share = max(0.0, adapted.value) / base.value
        return f"{scope} the distance to the reference fell to {share:.0%} of the base model's."
    if adapted.value >= base.value:
        return (
            f"{scope} it is no nearer to the reference than the base model is: {adapted.value:.3g} away (KID), "
            f"the base {base.value:.3g}."
        )
    return (
        f"{scope} its distance to the reference is {adapted.value:.3g} (KID) where the base model's is "
        f"{base.value:.3g}; that may be chance."
    )


@dataclass(frozen=True)
class Judge:
    """How far the pictures of both are from the reference in one extractor's features (KID)."""

    name: str
    base: Estimate
    adapted: Estimate
    change: Estimate | None  # paired; evaluations of earlier versions lack it

    @property
    def is_nearer(self) -> bool:
        """Whether the adapter's are, beyond both intervals and that of the change."""
        return self.adapted.high < self.base.low and (self.change is None or self.change.high < 0)


def judges_of(evaluation: Evaluation | None) -> list[Judge]:
    """Who measured that: first the network trained on photographs, which is not ours, then as the evaluation asked."""
    if evaluation is None:
        return []
    found = []
    for name in sorted(evaluation.extractors.values(), key=lambda name: name != photographs.NAME):
        base, adapted, change = (evaluation.found(which, "kid", name) for which in ("base", "adapted", "change"))
        if base is not None and adapted is not None:
            found.append(Judge(name, base, adapted, change))
    return found


def opinions(evaluation: Evaluation | None) -> str:
    """Whose word the headline is, and whether the others agree."""
    judges = judges_of(evaluation)
    if not judges:
        return ""
    first = judges[0]
    said = [f"So says {first.name}."]
    for judge in judges[1:]:
        does = "agrees" if judge.is_nearer == first.is_nearer else "disagrees"
        it_is = "it is nearer" if judge.is_nearer else "it is no nearer"
        numbers = f"{judge.adapted.value:.2g} away with the adapter, {judge.base.value:.2g} without (KID)"
        said.append(f"{judge.name} {does}: for that one {it_is}, {numbers}.")
    return " ".join(said)


def measured_by(evaluation: Evaluation) -> str:
    """Who measured, on how much: a number means nothing without both."""
    names = results.measured_by(evaluation)
    missing = f" {photographs.MISSING}" if names and photographs.KIND not in evaluation.extractors else ""
    return f"Value and 95 % interval over {evaluation.n} captions.{f' {names}.' if names else ''}{missing}"


def phases(seconds: dict[str, float]) -> list[dict[str, Any]]:
    """Where the time of the last session went, the largest share first."""
    total = sum(seconds.values()) or 1.0
    shares = sorted(((value / total, key) for key, value in seconds.items()), reverse=True)
    return [
        {"name": PHASES.get(key, key), "time": clock(seconds[key]), "share": share}
        for share, key in shares
        if share >= 0.001
    ]


def cost(steps: list[StepRow], environment: dict[str, Any], peak_memory: int | None) -> list[tuple[str, str]]:
    """What the run took; `peak_memory` in bytes of the GPU."""
    seconds = sorted(row.seconds for row in steps)
    memory = [("memory", f"at most {peak_memory / 2**30:.1f} GiB of the GPU")] if peak_memory is not None else []
    return [
        ("training", f"{clock(sum(seconds))} for {len(steps)} steps"),
        ("median step", f"{seconds[len(seconds) // 2]:.2f} s" if seconds else "none"),
        *memory,
        ("where", f"{environment['device']}, {environment['threads']} threads, {environment['platform']}"),
    ]


def snippet(folder: Path, run: dict[str, Any], environment: dict[str, Any], size: Size) -> str:
    """Plain diffusers code that makes the first picture of the page again."""
    index = folder / "samples" / test_set.ADAPTED / INDEX
    index = index if index.is_file() else next(iter(sorted((folder / "samples").glob(f"step-*/{INDEX}"))), index)
    request = kept(index.parent)[0] if index.is_file() else None
    prompt, seed = (request["prompt"], request["seed"]) if request else ("your prompt", run["seed"])
    model = Model(environment["base_model"], environment.get("pipeline_class", ""), run)
    drawn = Drawn(prompt, seed, GuidanceOptions.of(run), run["guidance_scale"], run["num_inference_steps"], size)
    return plain(folder, model, drawn)
