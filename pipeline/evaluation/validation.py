"""The loss on examples held out of training: fixed images, noise levels and noise, paired with the base model.

A training loss is mostly the luck of its noise level. Here every measurement uses the same examples
at the same levels with the same noise, with the adapter and without it, so that differences are
differences of the model. A probe of as many training examples, measured in the same way, makes the
generalisation gap a difference of two like things.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline import rng
from pipeline.adapter.adapted import Adapted
from pipeline.conditioning import Conditioning, stack
from pipeline.evaluation.estimates import Estimate, paired_change
from pipeline.families.base import Family
from pipeline.objective.losses import squared_error
from pipeline.objective.paths import DiffusionPath

NUM_LEVELS = 4  # noise levels per example, the middles of equal parts of t in [0, 1)
MAX_EXAMPLES = 32  # of the held-out set and of the probe
SEED = 0  # of the validation noise, whatever the run's seed is: runs can be compared


@dataclass(frozen=True)
class Subject:
    """One example to be measured: its encoded image and caption."""

    id: str
    mean: Float[Tensor, "c h w"]
    std: Float[Tensor, "c h w"]
    caption: str
    size: dict[str, Tensor]  # what the family tells of the picture's size


@dataclass(frozen=True)
class Ruler:
    """How a denoiser's errors are measured; equal rulers give comparable numbers."""

    family: Family
    path: DiffusionPath
    texts: Callable[[str | None], dict[str, Tensor]]
    batch_size: int
    device: torch.device
    dtype: torch.dtype

    def errors(self, adapted: Adapted, subjects: list[Subject], *, conditioned: bool = True) -> Float[Tensor, "n k"]:
        """Squared error of each subject at each noise level, with its caption or with the null condition."""
        with adapted.evaluating():
            return self._errors(adapted.denoiser, subjects, conditioned)

    def _errors(self, denoiser: Any, subjects: list[Subject], conditioned: bool) -> Float[Tensor, "n k"]:
        places = [(subject, level) for subject in subjects for level in range(NUM_LEVELS)]
        rows = []
        for first in range(0, len(places), self.batch_size):
            batch = places[first : first + self.batch_size]
            states = [{**self.texts(s.caption if conditioned else None), **s.size} for s, _ in batch]
            conditioning: Conditioning = stack(states).to(self.device, self.dtype)
            u = torch.tensor([(level + 0.5) / NUM_LEVELS for _, level in batch], dtype=torch.float64)
            noised = self.path.noise(
                torch.stack([_latents(subject) for subject, _ in batch]).to(self.device),
                torch.stack([_noise(subject, level) for subject, level in batch]).to(self.device),
                self.path.level(u).to(self.device),
            )
            prediction = self.family.denoise(denoiser, noised.x_t.to(self.dtype), noised.t, conditioning)
            rows.append(squared_error(prediction, noised.target).cpu())
        return torch.cat(rows).reshape(len(subjects), NUM_LEVELS)


@dataclass(frozen=True)
class Errors:
    """The errors of one model, [examples, noise levels] each."""

    held_out: Float[Tensor, "n k"]
    held_out_null: Float[Tensor, "n k"]
    probe: Float[Tensor, "m k"]


@dataclass(frozen=True)
class Validation:
    """What is measured, and the base model's errors to compare with."""

    ruler: Ruler
    held_out: list[Subject]
    probe: list[Subject]  # training examples
    base: Errors

    def measure(self, adapted: Adapted) -> dict[str, Any]:
        """One row for metrics.jsonl: losses, per noise level too, and the change from the base with its interval."""
        return summary(measure_all(self.ruler, adapted, self.held_out, self.probe), self.base)


def validation_for(ruler: Ruler, base: Adapted, held_out: list[Subject], probe: list[Subject]) -> Validation:
    """Measure the base model (everything with its adapter off) once, for later measurements to be compared with."""
    return Validation(ruler, held_out, probe, measure_all(ruler, base, held_out, probe))


def measure_all(ruler: Ruler, adapted: Adapted, held_out: list[Subject], probe: list[Subject]) -> Errors:
    """The errors on the held-out examples, with their captions and without, and on the probe."""
    return Errors(
        ruler.errors(adapted, held_out),
        ruler.errors(adapted, held_out, conditioned=False),
        ruler.errors(adapted, probe),
    )


def summary(now: Errors, base: Errors) -> dict[str, Any]:
    """Means, changes from the base with 95 % intervals over examples, and the curves over noise levels."""
    return {
        "held_out_loss": _mean(now.held_out),
        "probe_loss": _mean(now.probe),
        "held_out_base": _mean(base.held_out),
        "probe_base": _mean(base.probe),
        "held_out_change": _interval(paired_change("held-out loss", now.held_out.mean(1), base.held_out.mean(1))),
        "probe_change": _interval(paired_change("probe loss", now.probe.mean(1), base.probe.mean(1))),
        "condition_gain": _mean(now.held_out_null) - _mean(now.held_out),
        "condition_gain_base": _mean(base.held_out_null) - _mean(base.held_out),
        "levels": {
            "t": [(level + 0.5) / NUM_LEVELS for level in range(NUM_LEVELS)],
            "held_out": now.held_out.mean(0).tolist(),
            "held_out_base": base.held_out.mean(0).tolist(),
            "held_out_change": _by_level(now.held_out, base.held_out),
            "probe": now.probe.mean(0).tolist(),
            "probe_base": base.probe.mean(0).tolist(),
            "probe_change": _by_level(now.probe, base.probe),
        },
    }


def num_passes(num_held_out: int, num_probe: int) -> int:
    """Forward passes of one measurement."""
    return NUM_LEVELS * (2 * num_held_out + num_probe)


def _latents(subject: Subject) -> Tensor:
    shape = tuple(subject.mean.shape)
    return subject.mean + subject.std * rng.normal(SEED, 0, subject.id, "validation posterior", shape)


def _noise(subject: Subject, level: int) -> Tensor:
    return rng.normal(SEED, level, subject.id, "validation noise", tuple(subject.mean.shape))


def _by_level(now: Tensor, base: Tensor) -> list[dict[str, float]]:
    return [_interval(paired_change("loss", now[:, k], base[:, k])) for k in range(NUM_LEVELS)]


def _mean(errors: Tensor) -> float:
    return errors.double().mean().item()


def _interval(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
