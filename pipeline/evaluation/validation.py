"""The loss on examples held out of training: fixed images, noise levels and noise, paired with the base model.

A training loss is mostly the luck of its noise level. Here every measurement uses the same examples
at the same levels with the same noise, with the adapter and without it, so that differences are
differences of the model. As many training examples, measured in the same way, makes the
generalisation gap a difference of two like things.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline import rng
from pipeline.adapter.denoiser import AdaptedDenoiser
from pipeline.conditioning import Conditioning, Embeddings, Ragged, stack
from pipeline.evaluation.statistics import Interval, paired_change
from pipeline.objective.losses import squared_error
from pipeline.objective.paths import DiffusionPath

Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]  # x_t, t, conditioning -> prediction
Captions = Sequence[str | None] | None  # in the place of examples' own; None in it: no caption
NUM_LEVELS = 4  # noise levels per example, the middles of equal parts of t in [0, 1)
MAX_EXAMPLES = 32  # of the held-out set and of the training set
SEED = 0  # of the validation noise, whatever the run's seed is: runs can be compared


@dataclass(frozen=True)
class ValidationExample:
    """One example to be measured: its encoded image and caption."""

    id: str
    mean: Float[Tensor, "c h w"]
    std: Float[Tensor, "c h w"]
    caption: str
    size: dict[str, Tensor]  # what the family conditions on of the picture's size
    counts: Float[Tensor, "1 h w"] | None = None  # what each place counts; None: all the same


@dataclass(frozen=True)
class _Looked:
    """A batch of predictions, and what they should have been."""

    places: list[tuple[int, int]]  # the number of each example, and its noise level
    prediction: Float[Tensor, "b c h w"]
    target: Float[Tensor, "b c h w"]
    counts: Float[Tensor, "b 1 h w"] | None


@dataclass(frozen=True, kw_only=True)
class LossEvaluator:
    """How a denoiser's errors are measured; equal evaluators give comparable numbers."""

    path: DiffusionPath
    prompts: Callable[[str | None], Embeddings]
    ragged: Ragged
    batch_size: int
    device: torch.device
    dtype: torch.dtype  # of the conditioning

    def errors(
        self,
        predict: Predict,
        examples: list[ValidationExample],
        captions: Captions = None,
        captioned: Predict | None = None,
    ) -> Float[Tensor, "n k"]:
        """Squared error of each example at each noise level, with its own caption or that given in its place.

        `captioned` is asked in place of `predict` for captions that say something.
        """
        found = torch.empty(len(examples), NUM_LEVELS)
        for looked in self._looks(predict, examples, captions, captioned):
            errors = squared_error(looked.prediction, looked.target, looked.counts)
            found[tuple(zip(*looked.places, strict=True))] = errors.cpu()
        return found

    def predictions(
        self, predict: Predict, examples: list[ValidationExample], captions: Captions = None
    ) -> list[tuple[Float[Tensor, "k c h w"], Float[Tensor, "k c h w"]]]:
        """What is predicted for each example at each noise level, and what should be: on the CPU, in float32."""
        found: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        for looked in self._looks(predict, examples, captions, None):
            pairs = zip(looked.prediction.float().cpu(), looked.target.float().cpu(), strict=True)
            found.update(zip(looked.places, pairs, strict=True))
        levels = [[found[number, level] for level in range(NUM_LEVELS)] for number in range(len(examples))]
        return [(torch.stack([p for p, _ in rows]), torch.stack([t for _, t in rows])) for rows in levels]

    def _looks(
        self, predict: Predict, examples: list[ValidationExample], captions: Captions, captioned: Predict | None
    ) -> Iterator[_Looked]:
        """Predictions batch by batch."""
        captions = [example.caption for example in examples] if captions is None else captions
        prompts = {caption: self.prompts(caption) for caption in dict.fromkeys(captions)}
        for places in self._batches(examples, [captioned is not None and bool(caption) for caption in captions]):
            ask = captioned if captioned is not None and captions[places[0][0]] else predict
            batch = [(examples[number], level) for number, level in places]
            conditions = [{**prompts[captions[number]], **examples[number].size} for number, _ in places]
            conditioning = stack(conditions, self.ragged).to(self.device, self.dtype)
            u = torch.tensor([(level + 0.5) / NUM_LEVELS for _, level in batch], dtype=torch.float64)
            sample = self.path.sample(
                torch.stack([_latents(example) for example, _ in batch]).to(self.device),
                torch.stack([_noise(example, level) for example, level in batch]).to(self.device),
                self.path.validation_time(u).to(self.device),
            )
            counts = [example.counts for example, _ in batch if example.counts is not None]
            weights = torch.stack(counts).to(self.device) if counts else None
            yield _Looked(places, ask(sample.x_t, sample.t, conditioning), sample.target, weights)

    def _batches(self, examples: list[ValidationExample], apart: list[bool]) -> Iterator[list[tuple[int, int]]]:
        """The number of an example and its noise level, for all of them, in batches of one size, some `apart`."""
        alike: dict[tuple[torch.Size, bool], list[tuple[int, int]]] = {}
        for number, example in enumerate(examples):
            places = alike.setdefault((example.mean.shape, apart[number]), [])
            places += [(number, level) for level in range(NUM_LEVELS)]
        for places in alike.values():
            for first in range(0, len(places), self.batch_size):
                yield places[first : first + self.batch_size]


@dataclass(frozen=True)
class Errors:
    """The errors of one model, [examples, noise levels] each."""

    held_out: Float[Tensor, "n k"]
    held_out_unconditional: Float[Tensor, "n k"]
    train_subset: Float[Tensor, "m k"]


@dataclass(frozen=True, kw_only=True)
class NoiseLevels:
    """The losses at each noise level: curves over t, of the adapted model and of the base."""

    t: tuple[float, ...]
    held_out: tuple[float, ...]
    held_out_base: tuple[float, ...]
    held_out_change: tuple[Interval, ...]
    train_subset: tuple[float, ...]
    train_subset_base: tuple[float, ...]
    train_subset_change: tuple[Interval, ...]


@dataclass(frozen=True, kw_only=True)
class ValidationRow:
    """One measurement, as metrics.jsonl keeps it: mean squared errors, and changes from the base over examples."""

    held_out_loss: float
    train_subset_loss: float
    held_out_base: float
    train_subset_base: float
    held_out_change: Interval
    train_subset_change: Interval
    condition_gain: float  # how much the captions lower the held-out loss
    condition_gain_base: float
    levels: NoiseLevels

    @property
    def held_out_share(self) -> Interval:
        """The change of the held-out loss as shares of the base's loss."""
        return self.held_out_change.over(self.held_out_base)

    @property
    def train_subset_share(self) -> Interval:
        """The same on the training examples."""
        return self.train_subset_change.over(self.train_subset_base)


@dataclass(frozen=True)
class Validation:
    """What is measured, and the base model's errors to compare with."""

    evaluator: LossEvaluator
    held_out: list[ValidationExample]
    train_subset: list[ValidationExample]
    base: Errors
    captioned: Predict | None = None  # what predicts for captions that say something, where not the denoiser itself

    def measure(self, denoiser: AdaptedDenoiser) -> ValidationRow:
        """Losses, per noise level too, and the change from the base with its interval."""
        with denoiser.adapted.evaluating():
            now = measure_all(self.evaluator, denoiser, self.held_out, self.train_subset, self.captioned)
            return summary(now, self.base)


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """How far the model moved on pictures of a class that are not trained on: mean squared errors, and the change."""

    loss: float
    base: float
    change: Interval

    @property
    def share(self) -> Interval:
        """The change as shares of the base's loss."""
        return self.change.over(self.base)


@dataclass(frozen=True)
class ClassValidation:
    """The pictures of a class, and the base model's errors on them."""

    evaluator: LossEvaluator
    examples: list[ValidationExample]
    base: Float[Tensor, "n k"]
    captioned: Predict | None = None

    def measure(self, denoiser: AdaptedDenoiser) -> ClassRow:
        """The loss with the adapter, paired with the base's."""
        with denoiser.adapted.evaluating():
            now = self.evaluator.errors(denoiser, self.examples, captioned=self.captioned)
        return ClassRow(loss=_mean(now), base=_mean(self.base), change=paired_change(now.mean(1), self.base.mean(1)))


def build_class_validation(
    evaluator: LossEvaluator,
    denoiser: AdaptedDenoiser,
    examples: list[ValidationExample],
    captioned: Predict | None = None,
) -> ClassValidation:
    """Measure the base model once, for later measurements to be compared with."""
    with denoiser.adapted.evaluating(), denoiser.adapted.disabled():
        return ClassValidation(evaluator, examples, evaluator.errors(denoiser, examples), captioned)


def build_validation(
    evaluator: LossEvaluator,
    denoiser: AdaptedDenoiser,
    held_out: list[ValidationExample],
    train_subset: list[ValidationExample],
    captioned: Predict | None = None,
) -> Validation:
    """Measure the base model once, for later measurements to be compared with."""
    with denoiser.adapted.evaluating(), denoiser.adapted.disabled():  # text encoders that learn among them
        base = measure_all(evaluator, denoiser, held_out, train_subset)
    return Validation(evaluator, held_out, train_subset, base, captioned)


def measure_all(
    evaluator: LossEvaluator,
    predict: Predict,
    held_out: list[ValidationExample],
    train_subset: list[ValidationExample],
    captioned: Predict | None = None,
) -> Errors:
    """The errors on the held-out examples, with their captions and without, and on the training examples."""
    return Errors(
        evaluator.errors(predict, held_out, captioned=captioned),
        evaluator.errors(predict, held_out, [None] * len(held_out)),
        evaluator.errors(predict, train_subset, captioned=captioned),
    )


def summary(now: Errors, base: Errors) -> ValidationRow:
    """Means, changes from the base with 95 % intervals over examples, and the curves over noise levels."""
    return ValidationRow(
        held_out_loss=_mean(now.held_out),
        train_subset_loss=_mean(now.train_subset),
        held_out_base=_mean(base.held_out),
        train_subset_base=_mean(base.train_subset),
        held_out_change=paired_change(now.held_out.mean(1), base.held_out.mean(1)),
        train_subset_change=paired_change(now.train_subset.mean(1), base.train_subset.mean(1)),
        condition_gain=_mean(now.held_out_unconditional) - _mean(now.held_out),
        condition_gain_base=_mean(base.held_out_unconditional) - _mean(base.held_out),
        levels=NoiseLevels(
            t=tuple((level + 0.5) / NUM_LEVELS for level in range(NUM_LEVELS)),
            held_out=tuple(now.held_out.mean(0).tolist()),
            held_out_base=tuple(base.held_out.mean(0).tolist()),
            held_out_change=_by_level(now.held_out, base.held_out),
            train_subset=tuple(now.train_subset.mean(0).tolist()),
            train_subset_base=tuple(base.train_subset.mean(0).tolist()),
            train_subset_change=_by_level(now.train_subset, base.train_subset),
        ),
    )


def num_passes(num_held_out: int, num_train_subset: int, num_class: int = 0) -> int:
    """Forward passes of one measurement."""
    return NUM_LEVELS * (2 * num_held_out + num_train_subset + num_class)


def _latents(example: ValidationExample) -> Tensor:
    shape = tuple(example.mean.shape)
    return example.mean + example.std * rng.normal(SEED, 0, example.id, "validation posterior", shape)


def _noise(example: ValidationExample, level: int) -> Tensor:
    return rng.normal(SEED, level, example.id, "validation noise", tuple(example.mean.shape))


def _by_level(now: Float[Tensor, "n k"], base: Float[Tensor, "n k"]) -> tuple[Interval, ...]:
    return tuple(paired_change(now[:, k], base[:, k]) for k in range(NUM_LEVELS))


def _mean(errors: Tensor) -> float:
    return errors.double().mean().item()
