"""What a run will take, for its plan: rows, notes and refusals, and what --train_batch_size auto comes to."""

import dataclasses
from dataclasses import dataclass

import torch

from pipeline.adapter import init_from
from pipeline.cards import Device
from pipeline.config import Run
from pipeline.data.buckets import Bucket
from pipeline.errors import ConfigError
from pipeline.families.base import Family
from pipeline.families.meta import on_meta
from pipeline.geometry import Size
from pipeline.objective.paths import DiffusionPath
from pipeline.run.cost import fitting
from pipeline.run.cost.counts import Counts
from pipeline.run.cost.memory import Memory, binary, memory_of
from pipeline.run.cost.seconds import FORWARD_SHARE, step_seconds
from pipeline.run.cost.step_on_meta import Chosen, StepShape
from pipeline.run.preflight import RunData

MUCH = 0.25  # of a machine's free memory: a model whose weights take more is counted before it is loaded


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One run on one device."""

    counts: Counts
    device: Device
    dtype: torch.dtype
    size: Size  # of the largest pictures
    has_previews: bool
    keeps_best: bool

    def shape(self, run: Run, batch_size: int) -> StepShape:
        """The micro-steps of a run."""
        return StepShape(self.size, batch_size, self.dtype, self.device.kind, run.train.gradient_checkpointing)

    def memory_of(self, shape: StepShape) -> Memory:
        """What a run of this one's kind takes with another micro-step."""
        return memory_of(self.counts, shape, has_previews=self.has_previews, keeps_best=self.keeps_best)

    def is_wanted(self, run: Run, *, dry: bool) -> bool:
        """Whether a step is to be counted: on a CPU a small model just begins, unless it was counted already."""
        if dry or self.device.kind != "cpu" or self.counts.is_known(self.shape(run, run.train.batch_size)):
            return True
        return self.counts.frozen_bytes(self.dtype) > MUCH * self.device.memory_bytes

    def fitted(self, run: Run) -> tuple[Run, tuple[str, ...]]:
        """The run with a number for --train_batch_size auto, and a note that says how it was found.

        Raises ConfigError where not one example fits.
        """
        wanted = self.shape(run, run.train.examples_per_process)
        found = fitting.largest_fitting(self.memory_of, wanted, self.device)
        if found is None:
            one = dataclasses.replace(wanted, batch_size=1, checkpointing=True)
            raise ConfigError(self._refusal(one))
        times = wanted.batch_size // found.batch_size
        more = "" if found.checkpointing == wanted.checkpointing else ", with --gradient_checkpointing"
        note = f"--train_batch_size auto: {found.batch_size} at once, {times} times a step{more}"
        if times > 1:
            next_size = min(size for size in fitting.divisors(wanted.batch_size) if size > found.batch_size)
            needed = self.memory_of(dataclasses.replace(found, batch_size=next_size)).total
            note += f"; {next_size} at once take {binary(needed)} of {binary(self.device.memory_bytes)}"
        run = run.replaced(
            train_batch_size=found.batch_size,
            gradient_accumulation_steps=times,
            gradient_checkpointing=found.checkpointing,
        )
        return run, (note,)

    def notes(self, run: Run) -> tuple[str, ...]:
        """What there is to say of the room. Raises ConfigError for a GPU that surely has too little."""
        shape = self.shape(run, run.train.batch_size)
        memory = self.memory_of(shape)
        if memory.surely_not(self.device) and self.device.kind != "cpu":
            raise ConfigError(self._refusal(shape))
        if memory.fits(self.device):
            return ()
        return (f"memory may not be enough: {binary(memory.total)} of {binary(self.device.memory_bytes)}",)

    def _refusal(self, shape: StepShape) -> str:
        is_spared, multiple = self.counts.run.train.spares_base, self.counts.family.size_multiple
        return fitting.refusal(self.memory_of, shape, self.device, multiple, spares_base=is_spared)

    def rows(self, run: Run, num_steps: int, passes: float) -> tuple[tuple[str, str], ...]:
        """Memory and time; `passes`: forward passes of single examples beside the steps, to measure."""
        shape, train = self.shape(run, run.train.batch_size), run.train
        room = "" if self.device.is_here else f"; {self.device.name} has {binary(self.device.memory_bytes)}"
        rows = [("memory", self.memory_of(shape).text(shape) + room)]
        found = step_seconds(self.counts.step(shape), shape, self.device, train.gradient_accumulation_steps)
        if found is not None:
            rows.append(("time", found.text(num_steps, FORWARD_SHARE * passes / train.examples_per_process)))
        return tuple(rows)


def estimate_of(
    run: Run,
    family: Family,
    path: DiffusionPath,
    *,
    data: RunData,
    buckets: tuple[Bucket, ...],
    dtype: torch.dtype,
    device: Device,
) -> Estimate:
    """What can be said of a run before it begins; nothing is counted yet."""
    return Estimate(
        counts=Counts(run, family, path, chosen_modules(run, family)),
        device=device,
        dtype=dtype,
        size=max((bucket.size for bucket in buckets), key=lambda size: size.area),
        has_previews=bool(run.preview.validation_prompt) or data.test_set is not None,
        keeps_best=data.held_out is not None,
    )


def chosen_modules(run: Run, family: Family) -> Chosen:
    """The layers to be adapted of each model, from the models' shapes alone: nothing is loaded."""
    encoders = family.trainable_encoders if run.adapter.train_text_encoder else ()
    return init_from.chosen(family, on_meta(family, encoders), run.adapter)
