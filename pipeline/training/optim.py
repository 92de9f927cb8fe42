"""The optimizer, and a learning rate that is a function of the optimizer step alone."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW

from pipeline.training.options import OptimOptions

WARMUP_SHARE, MAX_WARMUP_STEPS = 0.05, 100


@dataclass(frozen=True)
class Schedule:
    """The learning rate of every step; the number of processes and of micro-steps plays no part."""

    kind: str
    peak: float
    warmup_steps: int
    num_steps: int

    def __call__(self, step: int) -> float:
        """The learning rate of optimizer step `step`, counted from 0.

        Shapes as in diffusers.optimization, but warm-up starts above zero, so that no step is spent on nothing.
        """
        if step < self.warmup_steps:
            return self.peak * (step + 1) / (self.warmup_steps + 1)
        progress = (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
        if self.kind == "cosine":
            return self.peak * max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))
        if self.kind == "linear":
            return self.peak * max(0.0, 1 - progress)
        if self.kind == "polynomial":  # diffusers' default: power 1 down to 1e-7
            return max(1e-7, (self.peak - 1e-7) * (1 - progress) + 1e-7)
        return self.peak


def schedule_for(options: OptimOptions, num_steps: int, global_batch: int) -> Schedule:
    """The schedule of a run of `num_steps` optimizer steps."""
    warmup = options.lr_warmup_steps
    if warmup is None:
        warmup = 0 if options.lr_scheduler == "constant" else min(MAX_WARMUP_STEPS, round(WARMUP_SHARE * num_steps))
    peak = options.learning_rate * (global_batch if options.scale_lr else 1)
    return Schedule(options.lr_scheduler, peak, 0 if options.lr_scheduler == "constant" else warmup, num_steps)


def optimizer_for(parameters: Iterable[nn.Parameter], options: OptimOptions) -> AdamW:
    """AdamW (Loshchilov & Hutter 2019) on the adapter's float32 weights."""
    return AdamW(
        list(parameters),
        lr=options.learning_rate,
        betas=(options.adam_beta1, options.adam_beta2),
        weight_decay=options.adam_weight_decay,
        eps=options.adam_epsilon,
    )
