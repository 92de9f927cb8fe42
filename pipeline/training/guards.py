"""What ends a run that cannot succeed: a loss that is no number, layers that nothing teaches."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.adapter.names import is_a, is_b
from pipeline.errors import TrainingStopped, listed

PATIENCE_STEPS = 10  # a batch trained without captions alone teaches the layers that read text nothing


class GradientGuard:
    """Looks until every tensor has had a gradient; A has none in the first step, for B is zero.

    In a run that goes on, until every B has that is still zero: the others have learnt, and with them their A.
    """

    def __init__(self, named: dict[str, nn.Parameter], first_step: int = 0) -> None:
        self.named, self.num_steps = named, 0
        self.waiting = {name for name, value in named.items() if not first_step or (is_b(name) and not value.any())}

    def flags(self) -> dict[str, Float[Tensor, ""]]:
        """For each tensor that is still waited for, whether it has a gradient now: 1 or 0, on the device."""
        return {name: _has_gradient(name, self.named[name]) for name in sorted(self.waiting)}

    def look(self, reached: set[str], *, last: bool) -> None:
        """Take note of the tensors that had a gradient in a step, `last` in the last one.

        Raises TrainingStopped when patience is at its end.
        """
        if not self.waiting:
            return
        self.num_steps += 1
        self.waiting -= reached
        if self.waiting and (last or self.num_steps >= PATIENCE_STEPS):
            dead = sorted(self.waiting)
            raise TrainingStopped(
                f"{len(dead)} adapter tensors get no gradient, so they would stay as they are:\n{listed(dead)}"
            )


def _has_gradient(name: str, value: nn.Parameter) -> Tensor:
    if value.grad is None:
        return torch.zeros((), device=value.device)
    return torch.ones((), device=value.device) if is_a(name) else value.grad.any().float()


def require_finite(
    step: int, *, loss: float, norm: float, may_overflow: bool, learning_rate: float, ids: list[str]
) -> None:
    """Raise TrainingStopped if the loss or the gradient of a step is not a number; nothing of it was saved.

    `may_overflow`: float16 gradients were scaled. The scaler leaves out a step that overflows, and scales less.
    """
    overflowed = may_overflow and math.isfinite(loss)
    if not (math.isfinite(loss) and math.isfinite(norm)) and not overflowed:
        raise TrainingStopped(
            f"Step {step} has loss {loss:g} and gradient norm {norm:g}: the adapter cannot be trained on. "
            f"Learning rate {learning_rate:g}; examples {', '.join(ids)}. Try a tenth of the learning rate."
        )
