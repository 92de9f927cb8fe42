"""What ends a run that cannot succeed: a loss that is no number, layers that nothing teaches."""

import math

from torch import nn
from torch.amp import GradScaler

from pipeline.errors import TrainingStopped, listed

PATIENCE_STEPS = 10  # a batch of nothing but null captions teaches the layers that read text nothing


class GradientGuard:
    """Looks until every tensor has had a gradient; A has none in the first step, for B is zero."""

    def __init__(self, named: dict[str, nn.Parameter]) -> None:
        self.named, self.num_steps = named, 0
        self.waiting = set(named)

    def look(self, *, last: bool) -> None:
        """After the gradients of a step, `last` in the last one. Raises TrainingStopped when patience is at its end."""
        if not self.waiting:
            return
        self.num_steps += 1
        self.waiting -= {name for name in self.waiting if _has_gradient(name, self.named[name])}
        if self.waiting and (last or self.num_steps >= PATIENCE_STEPS):
            dead = sorted(self.waiting)
            raise TrainingStopped(
                f"{len(dead)} adapter tensors get no gradient, so they would stay as they are:\n{listed(dead)}"
            )


def _has_gradient(name: str, value: nn.Parameter) -> bool:
    return value.grad is not None and (".lora_A." in name or bool(value.grad.any()))


def has_overflowed(scaler: GradScaler | None, loss: float, norm: float) -> bool:
    """Whether only float16's scaled gradient went out of range: the scaler leaves such a step out and scales less.

    At a scale of 1 it is no longer the scale's fault.
    """
    return scaler is not None and math.isfinite(loss) and not math.isfinite(norm) and scaler.get_scale() > 1


def require_finite(step: int, loss: float, norm: float, learning_rate: float, ids: list[str]) -> None:
    """Raise TrainingStopped if the loss or the gradient is not a number, before it reaches the weights."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingStopped(
            f"Step {step} has loss {loss:g} and gradient norm {norm:g}: the adapter cannot be trained on. "
            f"Learning rate {learning_rate:g}; examples {', '.join(ids)}. Try a tenth of the learning rate."
        )
