"""The arithmetic of a run, checked and printed before anything large is loaded."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Run
from pipeline.data import cache as caches
from pipeline.data.manifest import Manifest
from pipeline.engine import Precision
from pipeline.errors import ConfigError
from pipeline.families.base import Family
from pipeline.training.optim import Schedule, schedule_for

BYTES_PER_WEIGHT = 4
WEIGHTS_PER_CHECKPOINT = 4  # the adapter twice (raw and as handed over) and AdamW's two moments


@dataclass(frozen=True)
class Plan:
    """What a run will do, in numbers."""

    num_examples: int
    resolution: int  # pixels
    global_batch: int
    num_steps: int
    schedule: Schedule
    num_trainable: int
    num_views: int  # images to keep encoded
    bytes_needed: int
    rows: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def text(self) -> str:
        """The plan for a terminal."""
        width = max(len(name) for name, _ in self.rows)
        lines = [f"  {name:<{width}}  {value}" for name, value in self.rows]
        return "\n".join(["Plan", *lines, *(f"  note: {note}" for note in self.notes)])


def make_plan(
    run: Run, family: Family, manifest: Manifest, precision: Precision, num_processes: int, output_dir: Path
) -> Plan:
    """Work out the run. Raises ConfigError where the numbers do not fit together."""
    train, data = run.train, run.data
    resolution = data.resolution or family.native_pixels
    if resolution % family.size_multiple:
        near = round(resolution / family.size_multiple) * family.size_multiple
        raise ConfigError(f"--resolution {resolution} must be a multiple of {family.size_multiple}; {near} is near.")
    num_examples = len(manifest.examples)
    global_batch = train.train_batch_size * train.gradient_accumulation_steps * num_processes
    num_steps = train.max_train_steps or math.ceil(train.num_train_epochs * num_examples / global_batch)
    schedule = schedule_for(run.optim, num_steps, global_batch)
    num_trainable, num_layers = count_trainable(run, family)
    num_checkpoints = math.ceil(num_steps / train.checkpointing_steps)
    kept = min(num_checkpoints, train.checkpoints_total_limit or num_checkpoints) + 1
    seed = train.seed
    views = sum(len(caches.views_of(example, seed, resolution, data)) for example in manifest.examples)
    latent_bytes = 2 * BYTES_PER_WEIGHT * math.prod(family.latent_shape(resolution))
    needed = kept * WEIGHTS_PER_CHECKPOINT * BYTES_PER_WEIGHT * num_trainable + views * latent_bytes
    _require_space(needed, output_dir)
    alpha = run.adapter.alpha
    rows = (
        ("model", f"{family.folder} ({family.name}, {family.path().prediction})"),
        ("data", f"{manifest.folder}: {num_examples} examples at {resolution} x {resolution} pixels"),
        ("steps", f"{num_steps} of {_batch_text(run, num_processes)}"),
        ("epochs", f"{num_steps * global_batch / num_examples:.1f} ({_length_reason(run)})"),
        ("learning rate", f"{schedule.peak:g}, {schedule.kind} after {schedule.warmup_steps} steps of warm-up"),
        (
            "adapter",
            f"rank {run.adapter.rank}, alpha {alpha:g}, {num_layers} layers, {num_trainable:,} weights, float32",
        ),
        ("precision", f"{precision.name} ({precision.reason})"),
        ("null caption", f"{data.caption_dropout:.0%} of examples, the encoding of an empty prompt as in sampling"),
        ("checkpoints", f"every {train.checkpointing_steps} steps and at the end, {_kept_text(run)}"),
        ("cache", f"{views} views and their captions, in {cache_folder(run)}"),
        ("disk", f"at most {needed / 1e6:.0f} MB for checkpoints and cache"),
        ("output", str(output_dir)),
    )
    return Plan(
        num_examples,
        resolution,
        global_batch,
        num_steps,
        schedule,
        num_trainable,
        views,
        needed,
        rows,
        _notes(manifest),
    )


def cache_folder(run: Run) -> Path:
    """Where encoded examples are kept."""
    return Path(run.data.cache_dir) / "encoded" if run.data.cache_dir else Path.home() / ".cache" / "t2i-lora"


def count_trainable(run: Run, family: Family) -> tuple[int, int]:
    """Weights and layers of the adapter, from the denoiser's shape alone: nothing is loaded."""
    import diffusers
    import torch

    from pipeline.adapter import lora

    config = family.part_config(family.denoiser)
    with torch.device("meta"):
        denoiser: Any = getattr(diffusers, config["_class_name"]).from_config(config)
    layers = lora.targeted(denoiser, run.adapter, family.lora_targets)
    return sum(lora.num_weights(layer, run.adapter.rank) for layer in layers.values()), len(layers)


def _require_space(needed: int, output_dir: Path) -> None:
    existing = next(path for path in (output_dir.absolute(), *output_dir.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise ConfigError(
            f"The run may write {needed / 1e9:.1f} GB and {existing} has {free / 1e9:.1f} GB free; "
            "keep fewer checkpoints (--checkpoints_total_limit) or use another disk."
        )


def _batch_text(run: Run, num_processes: int) -> str:
    train = run.train
    total = train.train_batch_size * train.gradient_accumulation_steps * num_processes
    return (
        f"{total} examples ({train.train_batch_size} per micro-step x {train.gradient_accumulation_steps} "
        f"x {num_processes} process{'es' if num_processes > 1 else ''})"
    )


def _length_reason(run: Run) -> str:
    return "--max_train_steps" if run.train.max_train_steps else f"--num_train_epochs {run.train.num_train_epochs}"


def _kept_text(run: Run) -> str:
    limit = run.train.checkpoints_total_limit
    return "all kept" if limit is None else f"the newest {limit} kept"


def _notes(manifest: Manifest) -> tuple[str, ...]:
    notes = [f"left out: {problem}" for problem in manifest.skipped]
    notes += [f"the same image and caption: {names}" for names in manifest.duplicates]
    return tuple(notes)
