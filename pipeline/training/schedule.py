"""A learning rate that is a function of the optimizer step alone."""

import math
from dataclasses import dataclass

from pipeline.training.options import OptimOptions, Scheduler

WARMUP_SHARE, MAX_WARMUP_STEPS = 0.05, 100
POLYNOMIAL_END = 1e-7  # diffusers' lr_end


@dataclass(frozen=True)
class Schedule:
    """The learning rate of every step; the number of processes and of micro-steps plays no part."""

    kind: Scheduler
    peak: float
    warmup_steps: int
    num_steps: int
    num_cycles: int = 1  # of cosine_with_restarts
    power: float = 1.0  # of polynomial

    def __call__(self, step: int) -> float:
        """The learning rate of optimizer step `step`, counted from 0.

        Shapes as in diffusers.optimization, but warm-up starts above zero, so that no step is spent on nothing.
        """
        if step < self.warmup_steps:
            return self.peak * (step + 1) / (self.warmup_steps + 1)
        progress = (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
        if self.kind == "cosine":
            return self.peak * _half_cosine(progress)
        if self.kind == "cosine_with_restarts":
            return self.peak * (_half_cosine(self.num_cycles * progress % 1.0) if progress < 1 else 0.0)
        if self.kind == "linear":
            return self.peak * max(0.0, 1 - progress)
        if self.kind == "polynomial":
            return max(
                POLYNOMIAL_END, (self.peak - POLYNOMIAL_END) * math.pow(1 - progress, self.power) + POLYNOMIAL_END
            )
        return self.peak


def _half_cosine(progress: float) -> float:
    return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))


def build_schedule(options: OptimOptions, num_steps: int, global_batch: int) -> Schedule:
    """The schedule of a run of `num_steps` optimizer steps."""
    kind, warmup = options.schedule_kind, options.lr_warmup_steps
    if kind == "constant":
        warmup = 0
    elif warmup is None:
        warmup = min(MAX_WARMUP_STEPS, round(WARMUP_SHARE * num_steps))
    peak = options.peak_rate * (global_batch if options.scale_lr else 1)
    return Schedule(kind, peak, warmup, num_steps, options.lr_num_cycles, options.lr_power)
