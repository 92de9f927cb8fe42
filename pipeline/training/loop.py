"""The training loop, the same for every family: an optimizer step, then what is due after it is reported and saved."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.data.loader import Batch, CachedExamples, build_loader
from pipeline.data.sampler import MicroBatches, StepSampler
from pipeline.engine import Engine
from pipeline.errors import Interrupted
from pipeline.progress import Progress
from pipeline.timer import PhaseTimer
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.evaluator import Evaluator
from pipeline.training.graphs import Graphs
from pipeline.training.guards import GradientGuard, require_finite
from pipeline.training.intervals import Intervals
from pipeline.training.optim import adapted_rate
from pipeline.training.schedule import Schedule
from pipeline.training.signals import StopSignal
from pipeline.training.state import TrainState
from pipeline.training.step import Method, StepResult, optimizer_step
from pipeline.training.trackers import Trackers
from pipeline.training.tracking import Metrics, RankExamples, StepRow


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained: the method, the stream of examples, and when something is due."""

    method: Method
    adapted: AdaptedModels
    examples: CachedExamples
    sampler: StepSampler
    schedule: Schedule
    state: TrainState
    intervals: Intervals
    num_micro_steps: int
    max_grad_norm: float
    patience: int | None
    num_workers: int
    graphs: Graphs | None = None  # None: what a step does is launched kernel by kernel


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where the main process reports and saves."""

    checkpoints: Checkpoints
    metrics: Metrics
    trackers: Trackers
    progress: Progress
    evaluator: Evaluator  # previews, the held-out loss, early stopping


@dataclass(frozen=True)
class Taken:
    """A step that was taken and is not reported yet."""

    step: int  # counted from 1
    learning_rate: float
    adapted_rate: float | None
    result: StepResult


def train(
    engine: Engine,
    task: Task,
    outputs: Outputs | None,
    *,
    first_step: int,
    stop: StopSignal,
    timer: PhaseTimer,
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Train from `first_step` until the schedule or the patience ends; the last step leaves a checkpoint.

    `outputs` is None in processes that do not write; `on_step` is told each step in all of them.
    Raises TrainingStopped, PeerLost, or Interrupted, which leaves a checkpoint too.
    """
    num_steps = task.schedule.num_steps
    optimizer, guard = engine.prepare(task.state.optimizer), GradientGuard(task.state.named, first_step)
    reporter = Reporter(engine, task, outputs, guard, timer, on_step=on_step)
    stream = micro_batches(engine, task, first_step)
    for model in task.adapted.models.values():
        model.train()

    for step in range(first_step, num_steps):
        # Step: gradients of the mean over the whole optimizer step, whatever it was cut into.
        with timer.section("step"):
            learning_rate = task.schedule(step)
            result = optimizer_step(
                engine,
                task.state,
                optimizer,
                micro_losses(engine, task, stream, timer),
                step=step,
                learning_rate=learning_rate,
                max_grad_norm=task.max_grad_norm,
                guard=guard,
                asked=stop.exit_code,
                graph=task.graphs.update if task.graphs is not None else None,
            )
        # Report and save: the step before this one, which is done by now, or all where something is due.
        taken = Taken(step + 1, learning_rate, adapted_rate(task.state.optimizer), result)
        if reporter.report_and_save(taken, stop.exit_code if engine.num_processes == 1 else None):
            return


def micro_batches(engine: Engine, task: Task, first_step: int) -> Iterator[Batch]:
    """The micro-batches of this process, from `first_step` on."""
    batches = MicroBatches(
        task.sampler, first_step, task.schedule.num_steps, task.num_micro_steps, engine.rank, engine.num_processes
    )
    return iter(build_loader(task.examples, batches, task.num_workers))


def micro_losses(engine: Engine, task: Task, stream: Iterator[Batch], timer: PhaseTimer) -> Iterator[Float[Tensor, ""]]:
    """The loss of each micro-step: a sum, divided by the examples of the whole optimizer step.

    A graph leaves the gradients with the weights itself.
    """
    if task.graphs is not None:
        task.graphs.step.begin()
    for _ in range(task.num_micro_steps):
        with timer.section("data"):
            batch = next(stream)
        if task.graphs is None:
            yield task.method(batch, engine.device).sum() / task.sampler.batch_size
        else:
            yield task.graphs.step(task.method.inputs(batch, engine.device))


class Reporter:
    """Reads each step one step late, so that the device is never waited for; writes, measures and saves."""

    def __init__(
        self,
        engine: Engine,
        task: Task,
        outputs: Outputs | None,
        guard: GradientGuard,
        timer: PhaseTimer,
        *,
        on_step: Callable[[int], None],
    ) -> None:
        self.engine, self.task, self.outputs, self.guard, self.timer = engine, task, outputs, guard, timer
        self.on_step = on_step
        self._waiting: list[Taken] = []
        self._started, self._took = timer.seconds_of("step", "data"), 0.0  # of this step, and of the one before it
        self._pids: list[int] = engine.gather(os.getpid())

    def report_and_save(self, taken: Taken, asked: int | None) -> bool:
        """Take a step into account; True when training is over.

        `asked` is the exit code to stop with; what another process was asked is read with the steps. Raises Interrupted
        after saving, and TrainingStopped before anything that is not finite is saved.
        """
        done, intervals = taken.step, self.task.intervals
        self._waiting.append(taken)
        is_due = intervals.anything_due(done)
        while self._waiting and (is_due or asked is not None or len(self._waiting) > 1):
            asked = self._report(self._waiting.pop(0), done) or asked
        spent = self.timer.seconds_of("step", "data")
        self._started, self._took = spent, spent - self._started
        has_stalled = False
        if self.task.patience is not None and intervals.validation_due(done):
            has_stalled = self.engine.any(self.outputs is not None and self.outputs.evaluator.has_ended)
        ended = has_stalled or done == intervals.num_steps
        if self.outputs is not None and (intervals.checkpoint_due(done) or ended or asked is not None):
            with self.timer.section("save"):
                self.outputs.checkpoints.save(done, self.task.state, self.task.adapted)
        if asked is not None and not ended:
            raise Interrupted(asked, done)
        return ended

    def _report(self, taken: Taken, done: int) -> int | None:
        """Read a step of `done` and write its row; returns the exit code that some process was asked to stop with."""
        with self.timer.section("step"):
            numbers = taken.result.read()
        seconds = self._took if taken.step < done else self.timer.seconds_of("step", "data") - self._started
        places = self.task.sampler.step(taken.step - 1)
        ids = [self.task.examples.manifest.examples[place.index].id for place in places]
        self.guard.look(numbers.reached, last=taken.step == self.task.intervals.num_steps)
        require_finite(
            taken.step,
            loss=numbers.loss,
            norm=numbers.grad_norm,
            may_overflow=taken.result.may_overflow,
            learning_rate=taken.learning_rate,
            ids=ids,
        )
        self.on_step(taken.step)
        if self.outputs is not None:
            validation, of_class = self.outputs.evaluator(taken.step)
            row = StepRow(
                step=taken.step,
                loss=numbers.loss,
                learning_rate=taken.learning_rate,
                grad_norm=numbers.grad_norm,
                seconds=seconds,
                adapted_rate=taken.adapted_rate,
                validation=validation,
                of_class=of_class,
                ids=tuple(ids),
                size=places[0].size if len(self.task.sampler.buckets) > 1 else None,
                ranks=self._ranks(ids),
            )
            self.outputs.metrics.write(row)
            self.outputs.trackers.write(row)
            self.outputs.progress.update(taken.step, f"loss {numbers.loss:.4f}", f"lr {taken.learning_rate:.2e}")
        return numbers.asked

    def _ranks(self, ids: list[str]) -> tuple[RankExamples, ...] | None:
        """With several processes, which of them had which examples of a step."""
        count = len(self._pids)
        if count == 1:
            return None
        size = len(ids) // (self.task.num_micro_steps * count)
        cuts = [ids[first : first + size] for first in range(0, len(ids), size)]  # micro-steps first, processes second
        return tuple(
            RankExamples(pid, tuple(name for cut in cuts[rank::count] for name in cut))
            for rank, pid in enumerate(self._pids)
        )
