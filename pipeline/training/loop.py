"""The loop: report, save, step. One function for every family."""

import os
import time
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.adapter import dropout
from pipeline.data.loader import CachedExamples, loader_for
from pipeline.data.sampler import MicroBatches, StepSampler
from pipeline.engine import Engine
from pipeline.errors import EXIT_CTRL_C, EXIT_TERMINATED, Interrupted
from pipeline.timer import PhaseTimer
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.guards import GradientGuard, has_overflowed, require_finite
from pipeline.training.optim import adapted_rate
from pipeline.training.schedule import Schedule
from pipeline.training.signals import StopSignal
from pipeline.training.state import TrainState
from pipeline.training.step import Method, training_loss
from pipeline.training.tracking import Metrics, Progress, Tensorboard
from pipeline.training.watch import Watch


@dataclass(frozen=True)
class Task:
    """What is trained: the model, the maths and the stream of examples."""

    method: Method
    examples: CachedExamples
    sampler: StepSampler
    schedule: Schedule
    state: TrainState
    num_micro_steps: int
    max_grad_norm: float
    num_workers: int


@dataclass(frozen=True)
class Outputs:
    """Where a run reports and saves, and when."""

    checkpoints: Checkpoints
    checkpointing_steps: int
    metrics: Metrics
    tensorboard: Tensorboard
    progress: Progress
    watch: Watch  # previews, the held-out loss, early stopping


def train(
    engine: Engine, task: Task, outputs: Outputs | None, first_step: int, stop: StopSignal, timer: PhaseTimer
) -> None:
    """Train from `first_step` until the schedule or the patience ends; the last step leaves a checkpoint.

    `outputs` is None in processes that do not write. Raises TrainingStopped, or Interrupted, which
    leaves a checkpoint too.
    """
    num_steps, global_batch = task.schedule.num_steps, task.sampler.batch_size
    batches = MicroBatches(task.sampler, first_step, num_steps, task.num_micro_steps, engine.rank, engine.num_processes)
    stream = iter(loader_for(task.examples, batches, task.num_workers))
    state = task.state
    optimizer = engine.prepare(state.optimizer)
    trained = list(state.named.values())
    dropouts, guard = dropout.installed(task.method.adapted.denoiser), GradientGuard(state.named)
    for model in task.method.adapted.models.values():
        model.train()

    for step in range(first_step, num_steps):
        # Step: gradients of the mean over the whole optimizer step, whatever it was cut into.
        started = time.perf_counter()
        with timer.section("step"):
            learning_rate = task.schedule(step)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group["factor"]
            optimizer.zero_grad(set_to_none=True)
            total, ids = 0.0, []
            for _ in range(task.num_micro_steps):
                with timer.section("data"):
                    batch = next(stream)
                for layer in dropouts:
                    layer.rows = batch.rows
                losses = training_loss(task.method, batch, engine.device, engine.precision.dtype)
                loss = losses.sum() / global_batch
                engine.backward(loss)
                total += loss.item()
                ids.append(batch.ids)
            engine.add_gradients(trained)
            total = engine.add(torch.tensor(total, dtype=torch.float64, device=engine.device)).item()
            guard.look(last=step == num_steps - 1)
            norm = engine.clip(trained, task.max_grad_norm)
            overflowed = has_overflowed(engine.scaler, total, norm)
            if not overflowed:
                require_finite(step + 1, total, norm, learning_rate, [name for part in ids for name in part])
            optimizer.step()  # leaves a step that overflowed out
            if not overflowed:
                state.update_average(step)
        seconds = time.perf_counter() - started

        # Report.
        done = step + 1
        shares = engine.gather((os.getpid(), ids))
        if outputs is not None:
            seen = outputs.watch(done)
            row = {"loss": total, "learning_rate": learning_rate, "grad_norm": norm, "seconds": seconds}
            row |= adapted_rate(state.optimizer)
            outputs.metrics.write({"step": done, **row, **seen, **who_saw_what(shares)})
            outputs.tensorboard.write(done, row, seen)
            outputs.progress.update(done, total, learning_rate)

        # Save.
        ended = done == num_steps or (outputs is not None and outputs.watch.has_ended)
        asked, ended = agreed(engine, stop.exit_code, ended)
        if outputs is not None and (done % outputs.checkpointing_steps == 0 or ended or asked is not None):
            with timer.section("save"):
                outputs.checkpoints.save(done, state, task.method.adapted)
        if ended:
            return
        if asked is not None:
            raise Interrupted(asked, done)


def agreed(engine: Engine, asked: int | None, ended: bool) -> tuple[int | None, bool]:
    """What one process was asked or has found holds for all: the exit code to stop with, and whether to end."""
    votes = torch.tensor([asked == EXIT_TERMINATED, asked == EXIT_CTRL_C, ended], dtype=torch.float64)
    terminated, interrupted, anyone_ended = (engine.add(votes.to(engine.device)) > 0).tolist()
    return (EXIT_CTRL_C if interrupted else EXIT_TERMINATED if terminated else None), anyone_ended


def who_saw_what(shares: list[tuple[int, list[tuple[str, ...]]]]) -> dict[str, Any]:
    """The example ids of a step in the order of the stream, and with several processes who had which."""
    num_micro_steps = len(shares[0][1])
    row: dict[str, Any] = {"ids": [name for k in range(num_micro_steps) for _, ids in shares for name in ids[k]]}
    if len(shares) > 1:
        row["ranks"] = [{"pid": pid, "ids": [name for part in ids for name in part]} for pid, ids in shares]
    return row
