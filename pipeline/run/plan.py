"""The arithmetic of a run, checked and printed before anything large is loaded."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from pipeline.adapter.layers import TargetModule
from pipeline.config import Run
from pipeline.console import columns
from pipeline.data import captions, prompt_weights
from pipeline.data.buckets import Bucket, Offered
from pipeline.data.manifest import Manifest
from pipeline.data.sampler import StepSampler
from pipeline.engine import Precision
from pipeline.families.base import Family
from pipeline.geometry import Size
from pipeline.notes import Note, all_shown, grouped
from pipeline.objective.guided_options import MAX_PRODUCT
from pipeline.objective.paths import DiffusionPath
from pipeline.remembered import cache_folder
from pipeline.run import data_notes, disk, plan_text, shapes
from pipeline.run.beside import beside
from pipeline.run.cost.estimate import Estimate, chosen_modules
from pipeline.run.cost.step_on_meta import Chosen
from pipeline.run.preflight import RunData
from pipeline.run.speed import Speed
from pipeline.training.remaining import PASSES_PER_EXAMPLE, Beside
from pipeline.training.schedule import Schedule, build_schedule

# Of a run's work, and in number, where no interval is asked for; with what checkpoints take it is a tenth at most.
VALIDATION_SHARE, MAX_VALIDATIONS = 0.09, 10
ROUND = 10  # steps, to which longer intervals are rounded up
NOTES_FILE = "notes.txt"  # in the output folder
PASSES_OF_FEW, FEW_EXAMPLES = 100, 40  # over a small dataset; of a larger one the square root of its size counts


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do, in numbers."""

    preview_size: Size
    possible: Offered  # the sizes of pictures
    sampler: StepSampler
    num_steps: int
    num_epochs: int  # of which the last may be cut short
    seen: tuple[Bucket, ...]  # the buckets with what so many steps show of them
    schedule: Schedule
    validation_steps: int  # optimizer steps between two held-out losses; 0: never
    preview_steps: int  # between two previews; 0: at the end only
    beside: Beside
    num_trainable: int
    room: list[tuple[Path, int]]  # a folder on each disk that is written to, and the bytes that go there
    speed: Speed
    notes: tuple[str, ...]
    rows: tuple[tuple[str, str], ...] = ()  # for the terminal

    @property
    def size(self) -> Size:
        """The square of --resolution, of several the largest."""
        return self.possible.square

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """Which examples are shown at which size."""
        return self.sampler.buckets

    @property
    def global_batch(self) -> int:
        """Examples of an optimizer step."""
        return self.sampler.batch_size

    def text(self) -> str:
        """The plan for a terminal."""
        notes = [f"  note: {line}" for line in grouped(self.notes)]
        if not all_shown(self.notes):
            notes.append(f"  {len(self.notes)} notes in all; a run writes each to {NOTES_FILE}")
        return "\n".join(["Plan", *columns(self.rows), *notes])


def make_plan(
    run: Run,
    family: Family,
    path: DiffusionPath,
    *,
    data: RunData,
    possible: Offered,
    sampler: StepSampler,
    precision: Precision,
    how: Speed,
    num_processes: int,
    output_dir: Path,
    estimate: Estimate,
    is_estimated: bool,
) -> Plan:
    """Work out the run, if it `is_estimated` also what it takes. Raises ConfigError for what does not fit together."""
    manifest, held_out = data.shown, data.held_out
    num_steps, length_reason = length_of(run, sampler, data.num_own)
    schedule = build_schedule(run.optim, num_steps, sampler.batch_size)
    extra = beside(run, family, data)
    interval, interval_reason = _validation_interval(run, extra, sampler, num_steps)
    num_trainable = num_weights_of(chosen := all_of(estimate.counts.chosen))
    seen, num_epochs = sampler.shown_by(num_steps), sampler.num_epochs(num_steps)
    counts = {"num_steps": num_steps, "num_epochs": num_epochs, "num_trainable": num_trainable}
    needed = disk.needed(run, family, data, seen=seen, possible=possible, precision=precision, **counts)
    disk.require_space(needed, room := disk.room_for(needed, output_dir, cache_folder(run.data.cache_dir)))
    plan = Plan(
        preview_size=shapes.preview_size(run, family, possible.square),
        possible=possible,
        sampler=sampler,
        num_steps=num_steps,
        num_epochs=num_epochs,
        seen=seen,
        schedule=schedule,
        validation_steps=interval,
        preview_steps=_asked_interval(run, sampler),
        beside=extra,
        num_trainable=num_trainable,
        room=room,
        speed=how,
        notes=(
            *_notes(run, manifest, shapes.notes(manifest, sampler, possible)),
            *_notes_of_options(run, schedule, chosen),
            *(estimate.notes(run) if is_estimated else ()),
        ),
    )
    rows = (
        ("model", plan_text.model_text(family, path.prediction)),
        *plan_text.data_rows(run, data, shapes.size_text(sampler.buckets, possible)),
        *shapes.rows(manifest, sampler.buckets),
        ("steps", f"{num_steps} of {plan_text.batch_text(run, num_processes)}"),
        ("epochs", f"{num_steps * sampler.batch_size / sampler.num_entries:.1f} ({length_reason})"),
        *plan_text.training_rows(run, family, schedule, chosen),
        ("precision", f"{precision.name} ({precision.reason})"),
        *how.rows,
        *plan_text.kept_rows(run, held_out, interval, interval_reason),
        *plan_text.disk_rows(run, needed, output_dir),
        *(estimate.rows(run, num_steps, extra.measuring(num_steps, interval)) if is_estimated else ()),
    )
    return dataclasses.replace(plan, rows=rows)


def _asked_interval(run: Run, sampler: StepSampler) -> int:
    """Optimizer steps between validations as the flags say; 0 where they say nothing."""
    preview = run.preview
    if preview.validation_epochs is not None:
        return max(1, round(preview.validation_epochs * sampler.num_entries / sampler.batch_size))
    return preview.validation_steps or 0


def _validation_interval(run: Run, extra: Beside, sampler: StepSampler, num_steps: int) -> tuple[int, str]:
    """Optimizer steps between held-out losses, and why."""
    if not extra.validation:
        return 0, ""
    asked = _asked_interval(run, sampler)
    if asked:
        return asked, "asked for"
    tenth = math.ceil(num_steps / MAX_VALIDATIONS)
    work = PASSES_PER_EXAMPLE * sampler.batch_size * num_steps
    number = extra.validations_within(VALIDATION_SHARE, work) - 1  # the base is measured too
    interval = math.ceil(num_steps / max(1, number))
    if interval <= tenth:
        return tenth, f"{MAX_VALIDATIONS} times in all"
    rounded = interval if interval <= ROUND else math.ceil(interval / ROUND) * ROUND
    return min(rounded, num_steps), f"as often as {VALIDATION_SHARE:.0%} of the run's work allows"


def all_target_modules(run: Run, family: Family) -> list[TargetModule]:
    """The layers to be adapted, of every model."""
    return all_of(chosen_modules(run, family))


def all_of(chosen: Chosen) -> list[TargetModule]:
    """The layers of every model in one list."""
    return [module for modules in chosen.values() for module in modules]


def num_weights_of(chosen: list[TargetModule]) -> int:
    """How many numbers an adapter of these layers learns."""
    return sum(module.num_weights for module in chosen)


def length_of(run: Run, sampler: StepSampler, num_own: int | None = None) -> tuple[int, str]:
    """Optimizer steps in all, and why.

    `num_own` is how many examples are the dataset's own, where half of what is shown are pictures of a class.
    """
    train, global_batch = run.train, sampler.batch_size
    num_examples = sampler.num_entries if num_own is None else num_own
    if train.max_train_steps is not None:
        unused = train.num_train_epochs is not None
        return train.max_train_steps, "--max_train_steps" + (", which wins over --num_train_epochs" if unused else "")
    if train.num_train_epochs is not None:
        return sampler.num_steps(train.num_train_epochs), "--num_train_epochs"
    seen = PASSES_OF_FEW * FEW_EXAMPLES * math.sqrt(num_examples / FEW_EXAMPLES)
    if num_examples <= FEW_EXAMPLES:
        seen = PASSES_OF_FEW * num_examples
    if num_own is not None:
        seen *= 2
    return math.ceil(seen / global_batch), f"chosen for {num_examples} examples; --max_train_steps decides otherwise"


def _notes_of_options(run: Run, schedule: Schedule, chosen: list[TargetModule]) -> tuple[str, ...]:
    return (*_schedule_notes(schedule), *_dora_notes(run, chosen), *_guidance_notes(run))


def _schedule_notes(schedule: Schedule) -> tuple[str, ...]:
    if schedule.warmup_steps < schedule.num_steps:
        return ()
    return (
        f"the warm-up of {schedule.warmup_steps} steps does not end in {schedule.num_steps}: the learning rate reaches "
        f"{schedule(schedule.num_steps - 1):.1e} of {schedule.peak:.1e}",
    )


def _dora_notes(run: Run, chosen: list[TargetModule]) -> tuple[str, ...]:
    if run.adapter.comfyui_rank is not None or not any(module.use_dora for module in chosen):
        return ()
    return ("ComfyUI computes DoRA differently: --comfyui_rank writes a file for it, `export --kind comfyui` later",)


def _guidance_notes(run: Run) -> tuple[str, ...]:
    """Guidance that is learnt and given again."""
    learnt, given = run.objective.guided_target_scale, run.preview.guidance
    is_other = run.preview.guidance_against != "unconditional"  # and so does not multiply
    if run.objective.guided_target is None or is_other or learnt * given <= MAX_PRODUCT:
        return ()
    return (
        f"guidance multiplies: {learnt:g} learnt and {given:g} in previews make {learnt * given:g}, and above "
        f"{MAX_PRODUCT:g} colours burn; --guidance_scale {max(1.0, MAX_PRODUCT / learnt):g} is the most to give",
    )


def _notes(run: Run, manifest: Manifest, of_shapes: list[str]) -> tuple[str, ...]:
    notes = data_notes.found(manifest) + of_shapes
    notes += data_notes.mirrored(manifest)
    told = [("--validation_prompt", prompt) for prompt in run.preview.validation_prompt]
    told += [(f"--{name}", run.flat()[name] or "") for name in ("class_prompt", "preservation_prompt")]
    notes += [
        Note("prompts that weigh words, which is read as text", f"{flag} {prompt!r}")
        for flag, prompt in told
        if prompt_weights.has_weights(prompt)
    ]
    triggers = run.data.trigger_words
    names = " or ".join(map(repr, triggers))
    notes += [
        Note(f"previews without the trigger word {names}", repr(prompt))
        for prompt in run.preview.validation_prompt
        if triggers and not any(captions.has_word(prompt, trigger) for trigger in triggers)
    ]
    return tuple(notes)
