"""One resumable training loop for every part of the starter base: state in safetensors, log in JSON lines."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

SAVE_EVERY_SECONDS = 120.0
LOG_EVERY_STEPS = 25


@dataclass(frozen=True)
class Fit:
    """How one part is trained. Warm-up, a flat stretch, then a straight decay to zero over the last fifth."""

    name: str
    num_steps: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup_steps: int = 100
    decay_share: float = 0.2
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0  # 0: the live weights are the result

    def state_in(self, folder: Path) -> Path:
        """Where a training that was stopped goes on from."""
        return folder / f"{self.name}.state.safetensors"

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        decay_steps = max(1.0, self.decay_share * self.num_steps)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps, (self.num_steps - step) / decay_steps)


def fast_precision() -> torch.autocast:
    """bfloat16 products where the CPU multiplies in it (AVX512-BF16), float32 as ever elsewhere."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(torch.cpu.get_capabilities().get("avx512_bf16")))


def fit(plan: Fit, module: nn.Module, loss_of: Callable[[int], tuple[Tensor, dict[str, float]]], folder: Path) -> None:
    """Train `module` in place and leave its averaged weights in it.

    `loss_of(step)` returns the loss and what to log beside it, and must depend on `step` alone, so
    that a run that is killed and started again goes on as if nothing had happened. State goes to
    `folder/<name>.state.safetensors`, the log to `folder/<name>.jsonl`.
    """
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(
        list(named.values()), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=plan.weight_decay, fused=True
    )
    average = {name: parameter.detach().clone() for name, parameter in named.items()}
    folder.mkdir(parents=True, exist_ok=True)
    state_path, log_path = plan.state_in(folder), folder / f"{plan.name}.jsonl"
    first_step = _restore(state_path, named, average, optimizer) if state_path.exists() else 0
    last_save, started, losses = time.monotonic(), time.monotonic(), []
    for step in range(first_step, plan.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate_at(step)
        loss, extra = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(named.values(), plan.max_grad_norm, error_if_nonfinite=True)
        optimizer.step()
        decay = min(plan.ema_decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in named.values()], 1 - decay)
        losses.append(loss.item())
        if (step + 1) % LOG_EVERY_STEPS == 0:
            seconds_per_step = (time.monotonic() - started) / (step + 1 - first_step)
            row = {"step": step + 1, "loss": sum(losses) / len(losses), "seconds_per_step": seconds_per_step, **extra}
            with log_path.open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
            losses.clear()
        if time.monotonic() - last_save > SAVE_EVERY_SECONDS or step + 1 == plan.num_steps:
            _save(state_path, step + 1, named, average, optimizer)
            last_save = time.monotonic()
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(average[name])


def _save(
    path: Path, step: int, named: dict[str, nn.Parameter], average: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    tensors = {f"live/{name}": parameter.detach().contiguous() for name, parameter in named.items()}
    tensors |= {f"average/{name}": value.contiguous() for name, value in average.items()}
    for name, parameter in named.items():
        for key in ("exp_avg", "exp_avg_sq"):
            tensors[f"{key}/{name}"] = optimizer.state[parameter][key].contiguous()
    aside = path.with_suffix(".tmp")
    save_file(tensors, aside, metadata={"step": str(step)})
    os.replace(aside, path)


def _restore(
    path: Path, named: dict[str, nn.Parameter], average: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> int:
    with safe_open(path, framework="pt") as file, torch.no_grad():
        step = int(file.metadata()["step"])
        for name, parameter in named.items():
            parameter.copy_(file.get_tensor(f"live/{name}"))
            average[name].copy_(file.get_tensor(f"average/{name}"))
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": file.get_tensor(f"exp_avg/{name}"),
                "exp_avg_sq": file.get_tensor(f"exp_avg_sq/{name}"),
            }
    return step
