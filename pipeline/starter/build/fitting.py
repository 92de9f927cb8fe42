"""One resumable training loop for every part of the starter base: state in safetensors, log in JSON lines."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

SAVE_EVERY_SECONDS = 60.0
LOG_EVERY_STEPS = 25


@dataclass(frozen=True)
class Fit:
    """How one part is trained. Warm-up, a flat stretch, then a straight decay to zero over the last share of it."""

    name: str
    num_steps: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup_steps: int = 100
    decay_share: float = 0.2
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0  # 0: the live weights are the result
    seconds: float = math.inf  # the training ends here even where steps are left, and its rate knows it

    def state_in(self, folder: Path) -> Path:
        """Where a training that was stopped goes on from."""
        return folder / f"{self.name}.state.safetensors"

    def learning_rate_at(self, step: int, progress: float) -> float:
        """The learning rate of step `step`, counted from 0; `progress` is the share of the training behind it."""
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps, (1 - progress) / self.decay_share)


def fast_precision(device: torch.device) -> torch.autocast:
    """bfloat16 products on a GPU and where the CPU multiplies in it (AVX512-BF16), float32 as ever elsewhere."""
    able = device.type != "cpu" or bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=able)


def fit(plan: Fit, module: nn.Module, loss_of: Callable[[int], tuple[Tensor, dict[str, Tensor]]], folder: Path) -> None:
    """Train `module` in place and leave its averaged weights in it.

    `loss_of(step)` returns the loss and what to log beside it, and must depend on `step` alone, so
    that a run that is killed and started again goes on as if nothing had happened (where `plan.seconds`
    is given, but for what the clock decides). A loss that needs no gradient has left it with the weights already.
    State goes to `folder/<name>.state.safetensors`, the log to `folder/<name>.jsonl`. Raises RuntimeError
    after a gradient that is not finite, and before the next state is kept: a GPU is not waited for in every step.
    """
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(
        list(named.values()), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=plan.weight_decay, fused=True
    )
    average = {name: parameter.detach().clone() for name, parameter in named.items()}
    folder.mkdir(parents=True, exist_ok=True)
    state_path, log_path = plan.state_in(folder), folder / f"{plan.name}.jsonl"
    step, spent = _restore(state_path, named, average, optimizer) if state_path.exists() else (0, 0.0)
    first_step, started, last_save = step, time.monotonic(), time.monotonic()
    logged: list[dict[str, Tensor]] = []
    norms: list[Tensor] = []
    while (progress := max(step / plan.num_steps, (spent + time.monotonic() - started) / plan.seconds)) < 1:
        rate = plan.learning_rate_at(step, progress)
        module.zero_grad(set_to_none=True)
        loss, extra = loss_of(step)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        norms.append(nn.utils.clip_grad_norm_(named.values(), plan.max_grad_norm))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        decay = min(plan.ema_decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in named.values()], 1 - decay)
        logged.append({"loss": loss.detach(), **extra})
        step += 1
        if step % LOG_EVERY_STEPS == 0:
            _require_finite(norms)
            seconds_per_step = (time.monotonic() - started) / (step - first_step)
            _log(log_path, step, logged, {"rate": rate, "seconds_per_step": seconds_per_step})
            logged.clear()
        if time.monotonic() - last_save > SAVE_EVERY_SECONDS:
            _require_finite(norms)
            _save(state_path, (step, spent + time.monotonic() - started), named, average, optimizer)
            last_save = time.monotonic()
    _require_finite(norms)
    _save(state_path, (step, spent + time.monotonic() - started), named, average, optimizer)
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(average[name])


def _require_finite(norms: list[Tensor]) -> None:
    """RuntimeError where a gradient since the last look was not finite."""
    if norms and not torch.stack(norms).isfinite().all():
        raise RuntimeError("A gradient is non-finite; the last state that was kept is from before it.")
    norms.clear()


def _log(path: Path, step: int, logged: list[dict[str, Tensor]], more: dict[str, float]) -> None:
    """One row of the log: means since the last one."""
    row = {name: torch.stack([entry[name] for entry in logged]).float().mean().item() for name in logged[-1]}
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps({"step": step, **row, **more}) + "\n")


def _save(
    path: Path,
    so_far: tuple[int, float],
    named: dict[str, nn.Parameter],
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Keep weights, averages, the optimizer's memory, and how many steps and seconds are behind them."""
    tensors = {f"live/{name}": parameter.detach().contiguous() for name, parameter in named.items()}
    tensors |= {f"average/{name}": value.contiguous() for name, value in average.items()}
    for name, parameter in named.items():
        for key in ("exp_avg", "exp_avg_sq"):
            tensors[f"{key}/{name}"] = optimizer.state[parameter][key].contiguous()
    aside = path.with_suffix(".tmp")
    save_file(tensors, aside, metadata={"step": str(so_far[0]), "seconds": str(so_far[1])})
    os.replace(aside, path)


def _restore(
    path: Path, named: dict[str, nn.Parameter], average: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """Put a state back; the step to go on with, and the seconds spent so far."""
    with safe_open(path, framework="pt") as file, torch.no_grad():
        metadata = file.metadata()
        step = int(metadata["step"])
        for name, parameter in named.items():
            parameter.copy_(file.get_tensor(f"live/{name}"))
            average[name].copy_(file.get_tensor(f"average/{name}"))
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                "exp_avg": file.get_tensor(f"exp_avg/{name}").to(parameter.device),
                "exp_avg_sq": file.get_tensor(f"exp_avg_sq/{name}").to(parameter.device),
            }
    return step, float(metadata["seconds"])
