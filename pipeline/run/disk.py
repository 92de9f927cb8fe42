"""What a run will write, and whether there is room for it."""

import collections
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline.atomic import nearest_existing
from pipeline.config import Run
from pipeline.data.buckets import Bucket, Offered
from pipeline.data.manifest import Manifest, column
from pipeline.data.views import num_views
from pipeline.engine import Precision
from pipeline.errors import ConfigError, listed
from pipeline.evaluation import validation
from pipeline.families.base import Family
from pipeline.families.truncation import num_embedding_values
from pipeline.geometry import Size
from pipeline.run import prompts
from pipeline.run.measured import measured_examples
from pipeline.run.preflight import RunData

BYTES_PER_WEIGHT = 4  # of the adapter, and of latents
WEIGHTS_PER_CHECKPOINT = 8  # the adapter raw and as exported, up to four moments, the average and the best


@dataclass(frozen=True)
class Needed:
    """What is written at most; what the cache holds already is not taken off."""

    num_views: int  # images to keep encoded
    num_captions: int
    latents: int  # bytes
    embeddings: int
    checkpoints: int

    def text(self) -> str:
        """For the plan."""
        whole = {"checkpoints": self.checkpoints, "latents": self.latents, "prompt embeddings": self.embeddings}
        return "at most " + ", ".join(f"{_bytes(number)} of {name}" for name, number in whole.items() if number)


def needed(
    run: Run,
    family: Family,
    data: RunData,
    *,
    seen: tuple[Bucket, ...],
    possible: Offered,
    num_steps: int,
    num_epochs: int,
    num_trainable: int,
    precision: Precision,
) -> Needed:
    """What a run will write at most; `seen` is what its steps show."""
    train, held_out = run.train, data.held_out
    num_checkpoints = math.ceil(num_steps / train.checkpointing_steps)
    kept = min(num_checkpoints, train.checkpoints_total_limit or num_checkpoints) + 1
    views: collections.Counter[Size] = collections.Counter()
    for bucket in seen:
        views[bucket.size] += num_views(data.shown.of(bucket.entries.places), seed=train.seed, size=bucket.size)
    for part in measured_examples(data, seen):
        views.update(possible.measured(example) for example in part)
    views.update(possible.measured(example) for example in data.class_measured)
    embeddings, captions = 0, set[str]()
    if not run.adapter.train_text_encoder:
        trained = prompts.read_in_steps(run, data.shown, seen, num_epochs)
        measured = column(held_out.examples, "captions") if held_out else []
        captions = {*trained, *(texts[0] for texts in measured), *(e.caption for e in data.class_measured)}
        embeddings = (len(captions) + 1) * num_embedding_values(family) * precision.dtype.itemsize
    return Needed(
        views.total(),
        len(captions),
        sum(2 * BYTES_PER_WEIGHT * math.prod(family.latent_shape(size)) * number for size, number in views.items()),
        embeddings,
        kept * WEIGHTS_PER_CHECKPOINT * BYTES_PER_WEIGHT * num_trainable,
    )


def num_measured(held_out: Manifest | None) -> int:
    """Held-out examples whose loss is measured."""
    return min(len(held_out.examples), validation.MAX_EXAMPLES) if held_out else 0


def room_for(found: Needed, output_dir: Path, cache_dir: Path) -> list[tuple[Path, int]]:
    """A folder on each disk that is written to, and how many bytes go there."""
    wanted: dict[int, tuple[Path, int]] = {}
    for folder, size in ((output_dir, found.checkpoints), (cache_dir, found.latents + found.embeddings)):
        existing = nearest_existing(folder)
        device = existing.stat().st_dev
        place, before = wanted.get(device, (existing, 0))
        wanted[device] = (place, before + size)
    return list(wanted.values())


def require_space(found: Needed, room: list[tuple[Path, int]]) -> None:
    """Raise ConfigError if a disk has not the room, with every one that has not."""
    problems = [
        f"{place} has {_free(free)} free, and {_bytes(size)} may be written there"
        for place, size in room
        if size > (free := shutil.disk_usage(place).free)
    ]
    if problems:
        raise ConfigError(
            f"There is not enough room ({found.text()}): keep fewer checkpoints (--checkpoints_total_limit), or use "
            f"another disk (--output_dir, --cache_dir).\n{listed(problems)}"
        )


def _free(number: int) -> str:
    """Rounded down: a disk has not more than it says."""
    return f"{math.floor(number / 1e8) / 10:.1f} GB" if number >= 1e9 else f"{math.floor(number / 1e5) / 10:.1f} MB"


def _bytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{math.ceil(number / 1e6)} MB"
