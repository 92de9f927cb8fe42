"""Guidance inside a stock pipeline: while it draws, its denoiser answers with predictions that are guided already.

Everything else, from latents to schedulers, stays the pipeline's. One that asks for [unconditional; caption] in one
batch gets the guided prediction g for both, and makes g + w (g - g) = g of it, to the bit.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.sampling import conditions
from pipeline.sampling.levels import level_at
from pipeline.sampling.methods import Combination, Point, combination
from pipeline.sampling.options import GuidanceOptions

Weaker = Callable[[], contextlib.AbstractContextManager[None]]  # within it, the denoiser is the weaker one


@dataclass(frozen=True)
class Traits:
    """What a family's stock pipeline does with its denoiser's predictions, where it is not the usual."""

    negates: bool = False  # its transformer's velocity goes from noise to data
    in_turn: bool = False  # it asks for the caption's prediction first, for the unconditional one in a second call
    renormalises: bool = False  # what is led away from the unconditional gets the caption's norms, row by row


@contextlib.contextmanager
def guided(
    pipe: Any,
    denoiser: nn.Module,
    guidance: GuidanceOptions,
    scale: float,
    *,
    seeds: list[int],
    traits: Traits,
    weaker: Weaker | None,
) -> Iterator[float]:
    """A stock pipeline that draws one picture for each seed as `guidance` says; yields the scale to call it with.

    `weaker` turns the denoiser into what guidance leads away from; None where that is the unconditional prediction,
    which the pipeline asks for itself if its scale is above 1.
    """
    if guidance.is_usual:
        yield scale
        return
    answers = Guided(denoiser.forward, pipe.scheduler, guidance, scale, seeds=seeds, traits=traits, weaker=weaker)
    own = vars(denoiser).copy()
    vars(denoiser)["forward"] = answers
    try:
        yield guidance.stock_scale(scale)
    finally:
        del vars(denoiser)["forward"]
        vars(denoiser).update({"forward": own["forward"]} if "forward" in own else {})


@dataclass(frozen=True)
class Call:
    """The arguments of a denoiser, whatever they are called; its input is the first."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def x_t(self) -> Float[Tensor, "b c h w"]:
        """The denoiser's input."""
        found: Tensor = self.args[0] if self.args else self.kwargs["hidden_states"]
        return found

    def changed(self, change: Callable[[str, Tensor], Tensor]) -> "Call":
        """The same call with every tensor of the batch changed; `change` is told its name."""

        def walk(name: str, value: Any) -> Any:
            if isinstance(value, dict):
                return {key: walk(key, inner) for key, inner in value.items()}
            return change(name, value) if isinstance(value, Tensor) and value.ndim else value

        return Call(tuple(walk("", value) for value in self.args), walk("", self.kwargs))

    def last(self, count: int) -> "Call":
        """The call for the last so many of the batch."""
        return self.changed(lambda _, value: value[-count:])


class Guided:
    """What stands for a denoiser's `forward` during one draw."""

    def __init__(
        self,
        forward: Callable[..., Any],
        scheduler: Any,
        guidance: GuidanceOptions,
        scale: float,
        *,
        seeds: list[int],
        traits: Traits,
        weaker: Weaker | None,
    ) -> None:
        self.forward, self.scheduler, self.guidance, self.scale = forward, scheduler, guidance, scale
        self.seeds, self.traits, self.weaker = seeds, traits, weaker
        self.combine: Combination = combination(guidance, scale)
        self.step = 0
        self.waiting: tuple[Tensor, Point] | None = None  # the caption's, until the unconditional one is asked for

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        """The answer to one call of the pipeline."""
        call = Call(args, kwargs)
        if self.waiting is not None:
            return (self._second(call, *self.waiting),)
        point = Point(call.x_t[-len(self.seeds) :], level_at(self.scheduler, self.step), self.step)
        self.step += 1
        call = self._annealed(call, point)
        if len(call.x_t) == 2 * len(self.seeds):
            return (self._both(call, point),)
        return (self._one(call, point),)

    def _both(self, call: Call, point: Point) -> Tensor:
        """One batch of unconditional and captions' predictions; the captions' alone where nothing is guided."""
        if not self._guides(point):
            found = self._predicted(call.last(len(self.seeds)))
        else:
            other, cond = self._predicted(call).chunk(2)
            found = self._combined(cond, other, point)
        return torch.cat([found, found])

    def _one(self, call: Call, point: Point) -> Tensor:
        """The captions' predictions; the unconditional ones, where a pipeline asks for them, come in a second call."""
        cond = self._predicted(call)
        if self.weaker is None:
            self.waiting = (cond, point) if self.traits.in_turn and self.scale > 1 else None
            return cond
        if not self._guides(point):
            return cond
        with self.weaker():
            other = self._predicted(call)
        return self._combined(cond, other, point)

    def _second(self, call: Call, cond: Tensor, point: Point) -> Tensor:
        """The answer to the second call of a step: in place of the first one's, which the pipeline still holds."""
        self.waiting = None
        if self._guides(point):
            cond.copy_(self._combined(cond, self._predicted(call), point))
        return cond

    def _guides(self, point: Point) -> bool:
        """Whether anything is compared at this noise level; at scale 1 the weaker prediction would count nothing."""
        low, high = self.guidance.interval or (-math.inf, math.inf)
        return self.scale != 1 and low < point.level.ratio <= high

    def _predicted(self, call: Call) -> Tensor:
        found: Tensor = self.forward(*call.args, **call.kwargs)[0]
        return found

    def _combined(self, cond: Tensor, other: Tensor, point: Point) -> Tensor:
        sign = -1 if self.traits.negates else 1
        found = sign * self.combine(sign * cond.float(), sign * other.float(), point)
        if self.traits.renormalises and self.weaker is None:
            found = found * (torch.norm(cond, dim=-1, keepdim=True) / torch.norm(found, dim=-1, keepdim=True))
        return found.to(cond.dtype)

    def _annealed(self, call: Call, point: Point) -> Call:
        """The call with noise in the captions' embeddings; the unconditional ones, which come first, stay."""
        scale, count = self.guidance.cads_scale, len(self.seeds)

        def change(name: str, value: Tensor) -> Tensor:
            if name not in conditions.NAMES:
                return value
            own = value[-count:]
            noise = conditions.noise_for(self.seeds, point.step, name, own)
            return torch.cat([value[:-count], conditions.annealed(own, point.level.time, scale, noise)])

        return call.changed(change) if scale and conditions.signal_at(point.level.time) < 1 else call
