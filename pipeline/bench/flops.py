"""The work that a LoRA step cannot do without, counted; and the most products of matrices a device does in a second."""

import time
from pathlib import Path

import torch

from pipeline.config import Run
from pipeline.families import registry
from pipeline.families.options import ModelOptions
from pipeline.geometry import Size
from pipeline.run.cost.estimate import chosen_modules
from pipeline.run.cost.step_on_meta import StepShape, count_step

SIDE, SMALL_SIDE = 8192, 512  # of the matrices, on a GPU and on a CPU
SECONDS = 1.0  # that the peak is looked for


def of_step(folder: Path, size: Size) -> float:
    """Floating-point operations of forward and backward for one example; what is recomputed for memory does not count.

    Counted from the configurations in a model folder, as for the plan of a run.
    """
    run = Run().replaced(rank=16, lora_layers="attention")
    family = registry.find(ModelOptions(pretrained_model_name_or_path=str(folder)), None)
    shape = StepShape(size, 1, torch.bfloat16, "meta", checkpointing=False)
    path = family.path(run.objective)
    return float(count_step(run, family, path, chosen_modules(run, family), shape).num_flops)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second in the product of two large matrices of random numbers: the best of many."""
    side = SIDE if device.type == "cuda" else SMALL_SIDE
    first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best, until = float("inf"), time.monotonic() + SECONDS
    while time.monotonic() < until:
        started = _clock(device)
        for _ in range(4):
            torch.mm(first, second)
        best = min(best, (_clock(device) - started) / 4)
    return 2 * side**3 / best


def _clock(device: torch.device) -> float:
    """Now, once the device has done what it was given; of a CPU the seconds that this process computed."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
