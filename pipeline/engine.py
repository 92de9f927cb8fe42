"""Processes, devices and precision. The only module that knows accelerate."""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline.errors import ConfigError

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Precision:
    """What the frozen model computes in, and why. The adapter is float32 in every case."""

    name: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """The torch type of the frozen weights."""
        return DTYPES[self.name]


class Engine:
    """The little the training loop needs to know about where it runs."""

    def __init__(self, mixed_precision: str | None, *, allow_tf32: bool = False) -> None:
        # The loop divides by the size of the whole optimizer step itself, so accelerate must not.
        self._accelerator = Accelerator(mixed_precision=mixed_precision, gradient_accumulation_steps=1)
        self.device: torch.device = self._accelerator.device
        self.precision = _precision(self._accelerator.mixed_precision, mixed_precision, self.device)
        if self._accelerator.num_processes != 1:
            raise ConfigError(
                f"accelerate started {self._accelerator.num_processes} processes; this version trains with one "
                "(accelerate launch --num_processes 1 train_lora.py ...)."
            )
        if allow_tf32 and self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = True

    def prepare(self, optimizer: torch.optim.Optimizer) -> Any:
        """The optimizer with loss scaling where fp16 needs it."""
        return self._accelerator.prepare_optimizer(optimizer)

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients."""
        self._accelerator.backward(loss)

    def clip(self, parameters: list[nn.Parameter], max_norm: float) -> float:
        """Scale all gradients down to a total norm of `max_norm`; returns the norm before."""
        norm: Tensor = self._accelerator.clip_grad_norm_(parameters, max_norm)
        return float(norm)


def _precision(effective: str, asked: str | None, device: torch.device) -> Precision:
    if effective not in DTYPES:
        raise ConfigError(f"accelerate is set to {effective} precision; no, fp16 and bf16 are offered.")
    if effective == "fp16" and device.type == "cpu":
        raise ConfigError("--mixed_precision fp16 does not work on a CPU; use 'no' (or bf16 where the CPU has it).")
    source = "asked for by --mixed_precision" if asked is not None else "accelerate's setting"
    return Precision(effective, f"{source}, on {device.type}")
