"""The bytes of a run at their most, by what they are for, and whether they fit."""

import math
from dataclasses import dataclass

from pipeline.cards import GIB, Device
from pipeline.config import Run
from pipeline.run.cost.counts import Counts
from pipeline.run.cost.step_on_meta import Sizes, StepShape

FLOAT32 = 4
# What no tensor shows. On CUDA the context with its kernels and the work space of cuBLAS, 0.4 to 0.6 GB of a process;
# on a CPU Python with torch and diffusers, 0.48 to 0.73 GB where it was measured. The allocator's own: what it rounds
# up and cannot use between two tensors.
CONTEXT_BYTES, PROGRAM_BYTES = 600_000_000, 545_000_000
ROUNDED_UP = 0.05
STATE_BYTES = {"adamw": 8, "adamw_8bit": 2, "prodigy": 16, "adamw_schedule_free": 8}  # for each weight
MISCOUNTED = 0.15  # a refusal costs a run, and no count was held against a GPU
SMALL = 4096  # weights of a tensor below which bitsandbytes keeps float32
BLOCK = 256  # of its eight-bit numbers, with a float32 scale each, in both moments


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes while a step is at its most."""

    weights: int  # frozen
    adapter: int  # with its gradient, the optimizer's state, the average and the best
    activations: int  # what a micro-step saves and hands on
    decoder: int  # for previews
    allowance: int  # for what no tensor shows
    encoding: int  # before training, with nothing of the above but the allowance

    @property
    def training(self) -> int:
        """All at once, while it trains."""
        return self.weights + self.adapter + self.activations + self.decoder + self.allowance

    @property
    def total(self) -> int:
        """The most that is needed at a time."""
        return max(self.training, self.encoding + self.allowance)

    def fits(self, device: Device) -> bool:
        """Whether there is room."""
        return self.total <= device.memory_bytes

    def surely_not(self, device: Device) -> bool:
        """Whether there is none even if the rest were over-counted and nothing of the allowance needed."""
        return self.total - self.allowance > (1 + MISCOUNTED) * device.memory_bytes

    def text(self, shape: StepShape) -> str:
        """For the plan."""
        many = f"{shape.batch_size} of {shape.size}{', recomputed' if shape.checkpointing else ''}"
        parts = [
            f"{binary(self.weights)} of weights",
            f"{binary(self.adapter)} of adapter and optimizer",
            f"{binary(self.activations)} of activations ({many})",
            *([f"{binary(self.decoder)} of decoder"] if self.decoder else []),
            f"{binary(self.allowance)} of libraries",
        ]
        before = f"; encoders before it {binary(self.encoding)}" if self.encoding > self.training / 2 else ""
        return f"{binary(self.training)} = {' + '.join(parts)}{before}"


def memory_of(counts: Counts, shape: StepShape, *, has_previews: bool, keeps_best: bool) -> Memory:
    """What a run needs with micro-batches of this shape."""
    step, run = counts.step(shape), counts.run
    held = FLOAT32 * (2 + run.optim.use_ema + keeps_best) * step.num_trainable
    activations = max(0, step.step_bytes - FLOAT32 * step.num_trainable)  # its gradients are counted with the adapter
    fixed = CONTEXT_BYTES if shape.device == "cuda" else PROGRAM_BYTES
    return Memory(
        weights=step.frozen_bytes + counts.reading_bytes(shape.dtype),
        adapter=held + state_bytes(run, step.trainable),
        activations=activations,
        decoder=counts.decoder_bytes(shape.dtype) if has_previews else 0,
        allowance=fixed + math.ceil(ROUNDED_UP * activations),
        encoding=counts.encoding_bytes(shape.dtype),
    )


def state_bytes(run: Run, trainable: Sizes) -> int:
    """What the optimizer keeps from step to step, for tensors of these shapes."""
    return sum(_state_of(run.optim.optimizer_name, size) for size in trainable)


def _state_of(optimizer: str, size: tuple[int, ...]) -> int:
    number = math.prod(size)
    if optimizer == "adafactor":  # a mean for each row and each column of a matrix
        factored = math.prod(size[:-1]) + math.prod((*size[:-2], size[-1]))
        return FLOAT32 * (factored if len(size) > 1 else number)
    if optimizer == "adamw_8bit":
        return 2 * FLOAT32 * number if number < SMALL else 2 * (number + FLOAT32 * math.ceil(number / BLOCK))
    return STATE_BYTES[optimizer] * number


def binary(number: int) -> str:
    """Bytes for a reader."""
    return f"{number / GIB:.1f} GiB" if number >= GIB else f"{math.ceil(number / 2**20)} MiB"
