"""Everything of a run that moves: the adapter, its optimizer, the average of its weights, the best of it so far."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from pipeline.errors import CheckpointError, listed
from pipeline.training.optim import averages_itself

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Best:
    """The weights with the lowest held-out loss so far."""

    step: int
    loss: float
    weights: Weights


class TrainState:
    """What a checkpoint holds. Nothing random is in it: random numbers have no state."""

    def __init__(
        self,
        named: dict[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        ema_decay: float | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        self.named, self.optimizer, self.ema_decay, self.scaler = named, optimizer, ema_decay, scaler
        self.average: Weights | None = copied(named) if ema_decay is not None else None
        self.best: Best | None = None
        self.num_worse = 0  # validations since the best one

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        """Move the average towards the weights after optimizer step `step`, counted from 0."""
        if self.average is not None and self.ema_decay is not None:
            decay = ema_decay_at(step, self.ema_decay)
            for name, value in self.named.items():
                self.average[name].lerp_(value.detach(), 1 - decay)

    def note(self, step: int, loss: float) -> None:
        """Take a held-out loss into account; `step` optimizer steps are done. Equal or not a number is not better."""
        if math.isfinite(loss) and (self.best is None or loss < self.best.loss):
            self.best, self.num_worse = Best(step, loss, self.copy_of_current()), 0
        else:
            self.num_worse += 1

    def has_stalled(self, patience: int | None) -> bool:
        """Whether as many validations in a row as patience allows have found no lower held-out loss."""
        return patience is not None and self.num_worse >= patience

    def copy_of_current(self) -> Weights:
        """The weights that are measured, drawn with and exported: the average where there is one."""
        with self.showing_current():
            return copied(self.named)

    @contextlib.contextmanager
    def showing_current(self) -> Iterator[None]:
        """Put the current weights into the model for a while; training goes on with its own afterwards."""
        optimizer: Any = self.optimizer
        if self.average is None and not averages_itself(optimizer):
            yield
            return
        kept = copied(self.named)
        if self.average is not None:
            self.put(self.average)
        else:
            optimizer.eval()  # puts its average into the weights
        try:
            yield
        finally:
            if self.average is None:
                optimizer.train()
            self.put(kept)  # its own way back would round

    @torch.no_grad()
    def put(self, weights: Weights) -> None:
        """Write weights into the model."""
        for name, value in self.named.items():
            value.copy_(weights[name])

    def tensors(self) -> Weights:
        """Every tensor to be saved, by kind and name."""
        found = {f"adapter/{name}": value.detach() for name, value in self.named.items()}
        for kind, weights in (("average", self.average), ("best", self.best.weights if self.best else None)):
            found |= {f"{kind}/{name}": value for name, value in (weights or {}).items()}
        for name, parameter in self.named.items():
            for key, value in self.optimizer.state[parameter].items():
                if isinstance(value, Tensor):
                    found[f"optimizer.{key}/{name}"] = value.clone()  # layers may share one, a file may not
        return found

    def facts(self) -> dict[str, Any]:
        """Every number to be saved that is no tensor; JSON keeps each exactly."""
        scalars = {
            name: {k: v for k, v in self.optimizer.state[parameter].items() if not isinstance(v, Tensor)}
            for name, parameter in self.named.items()
        }
        groups = self.optimizer.param_groups
        return {
            "best": {"step": self.best.step, "loss": self.best.loss} if self.best else None,
            "num_worse": self.num_worse,
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "optimizer": {
                "groups": [_plain(group) for group in groups],
                "scalars": {name: values for name, values in scalars.items() if values},
            },
        }

    def load(self, tensors: Weights, facts: dict[str, Any]) -> None:
        """Take over what `tensors()` and `facts()` gave. Raises CheckpointError if they belong to another adapter."""
        kinds: dict[str, Weights] = {}
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            kinds.setdefault(kind, {})[name] = value
        wanted = {"adapter"} | ({"average"} if self.average is not None else set())
        odd = sorted(wanted - kinds.keys())
        for kind, weights in kinds.items():
            strange = weights.keys() - self.named if kind.startswith("optimizer.") else weights.keys() ^ self.named
            odd += [f"{kind}/{name}" for name in sorted(strange)]
        if odd:
            raise CheckpointError(f"it holds other tensors than this adapter has:\n{listed(odd)}")
        self.put(kinds["adapter"])
        device = next(iter(self.named.values())).device
        if self.average is not None:
            self.average = {name: value.to(device) for name, value in kinds["average"].items()}
        if facts["best"] is not None:
            weights = {name: value.to(device) for name, value in kinds["best"].items()}
            self.best = Best(facts["best"]["step"], facts["best"]["loss"], weights)
        self.num_worse = facts["num_worse"]
        if self.scaler is not None:
            self.scaler.load_state_dict(facts["scaler"])
        self._load_optimizer(kinds, facts["optimizer"])

    def _load_optimizer(self, kinds: dict[str, Weights], facts: dict[str, Any]) -> None:
        keys = [kind for kind in kinds if kind.startswith("optimizer.")]
        state = {
            index: {
                **{key.removeprefix("optimizer."): kinds[key][name] for key in keys if name in kinds[key]},
                **facts["scalars"].get(name, {}),
            }
            for index, name in enumerate(self.named)
        }
        groups, first = [], 0
        for group, own in zip(facts["groups"], self.optimizer.param_groups, strict=True):
            size = len(own["params"])
            groups.append({**group, "params": list(range(first, first + size))})
            first += size
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    """The settings of a group of an optimizer, without what a graph of its step asks for (training/graphs.py)."""
    rate = {"lr": float(group["lr"])} if isinstance(group["lr"], Tensor) else {}
    asked = {"capturable": False} if "capturable" in group else {}
    return {key: value for key, value in group.items() if key != "params"} | rate | asked


def ema_decay_at(step: int, limit: float) -> float:
    """diffusers' EMAModel: 0 at first, then (1 + n) / (10 + n) up to the limit; `step` is counted from 0."""
    return 0.0 if step == 0 else min(limit, (1 + step) / (10 + step))


def copied(weights: "dict[str, nn.Parameter] | Weights") -> Weights:
    """A copy that later steps do not change."""
    return {name: value.detach().clone() for name, value in weights.items()}
