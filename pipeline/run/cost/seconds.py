"""How long a step will take, estimated: from the operations that were counted and the rates of a device.

    seconds of a micro-step = max(operations / (UTILISATION x peak rate), kernels x LAUNCH_SECONDS)     on CUDA
                            = operations / measured rate of a matrix product + kernels x CALL_SECONDS   on a CPU

An optimizer step is as many micro-steps as are accumulated. docs/decisions.md holds it against published times.
"""

import time
from dataclasses import dataclass

import torch

from pipeline.cards import Device
from pipeline.console import clock
from pipeline.run.cost.step_on_meta import StepCount, StepShape

UTILISATION = 0.35  # of the dense peak: trainers of diffusion models reach 0.23 to 0.41 where the card is the limit
LAUNCH_SECONDS = 20e-6  # of the host for each kernel, Python and autograd with it: 10 to 50 are published
CALL_SECONDS = 15e-6  # the same on a CPU
CPU_UTILISATION = 0.7  # of what one large product reaches here: convolutions and small products reach less
PRODUCT_SIDE = 768  # of the matrices that are multiplied to measure a CPU
FORWARD_SHARE = 1 / 3  # of a step, about: it costs 2.1 to 2.4 times its forward pass, and its optimizer


@dataclass(frozen=True)
class StepSeconds:
    """An estimate, and what it comes from."""

    seconds: float  # of an optimizer step
    reason: str

    def text(self, num_steps: int, measured: float) -> str:
        """For the plan; `measured`: forward passes of a step's length that validations and previews add."""
        whole = self.seconds * (num_steps + measured)
        each = f"{self.seconds:.2f} s" if self.seconds >= 0.1 else f"{1000 * self.seconds:.0f} ms"
        return f"about {each} a step, {clock(whole)} of training in all (estimated: {self.reason})"


def step_seconds(step: StepCount, shape: StepShape, device: Device, num_micro_steps: int) -> StepSeconds | None:
    """The estimate for a device; None where nothing is known of it."""
    if device.kind == "cpu":
        rate = CPU_UTILISATION * product_rate()
        seconds = step.num_flops / rate + step.num_kernels * CALL_SECONDS
        reason = f"{_operations(step.num_flops * num_micro_steps)} at {rate / 1e9:.0f} GFLOP/s, measured"
        return StepSeconds(seconds * num_micro_steps, reason)
    peak = device.full_flops if shape.dtype == torch.float32 else device.half_flops
    if peak is None:
        return None
    computing, launching = step.num_flops / (UTILISATION * peak), step.num_kernels * LAUNCH_SECONDS
    operations = _operations(step.num_flops * num_micro_steps)
    reason = f"{operations} at {UTILISATION:.0%} of {peak / 1e12:.0f} TFLOP/s"
    if launching > computing:
        reason = f"{step.num_kernels * num_micro_steps} kernels at {LAUNCH_SECONDS * 1e6:.0f} us of the host each"
    return StepSeconds(max(computing, launching) * num_micro_steps, f"{reason}, within a factor of two")


def product_rate() -> float:
    """Operations a second of a float32 matrix product on this machine, the best of a few: some hundredths of one."""
    matrix = torch.ones(PRODUCT_SIDE, PRODUCT_SIDE)
    torch.mm(matrix, matrix)
    spent = []
    for _ in range(3):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        spent.append(time.perf_counter() - started)
    return 2 * PRODUCT_SIDE**3 / min(spent)


def _operations(number: float) -> str:
    return f"{number / 1e12:.1f} TFLOP" if number >= 1e11 else f"{number / 1e9:.1f} GFLOP"
