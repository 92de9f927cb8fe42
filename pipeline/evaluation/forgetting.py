"""What an adapter does to what it was not trained for: to captions that have nothing to do with its pictures.

Base and adapter draw the same captions with the same seeds. How far the pictures move is held against what another
seed does to those of the base, and how far predictions move against the base's own error on its own pictures.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline import atomic, records
from pipeline.evaluation.metrics.diversity import within_group
from pipeline.evaluation.results import Evaluation
from pipeline.evaluation.statistics import Interval, folds_of, jackknifed, mean_of, means_by
from pipeline.evaluation.validation import NUM_LEVELS

FOLDER = "forgetting"  # of an output folder
FILE = "forgetting.json"
MOST_PAIRS = 12  # that are shown
ANOTHER, LITTLE = 0.8, 0.2  # of what another seed does: from here on another picture, up to here the same one
Predictions = Sequence[tuple[Float[Tensor, "k c h w"], Float[Tensor, "k c h w"]]]  # of each example, and the targets


@dataclass(frozen=True, kw_only=True)
class Level:
    """What happened at one noise level, all as shares of the base's error with captions there."""

    t: float
    moved: Interval  # squared distance between the predictions of adapter and base, with the caption
    moved_unconditional: Interval | None  # the same without; None for a model that is never asked without
    gain_base: Interval | None  # how much the caption lowers the error
    gain: Interval | None
    shuffle_gain_base: Interval  # how much lower the error is than with another picture's caption
    shuffle_gain: Interval


@dataclass(frozen=True)
class Pair:
    """A caption, what the base drew of it and what the adapter did, with the same seed."""

    caption: str
    base: str  # the pictures in the folder
    adapted: str
    distance: float  # 1 - cosine


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """What was found."""

    adapter: str  # a hash of its file
    extractor: str
    moved: Interval  # 1 - cosine between base and adapter, over captions
    another_seed: Interval  # the same between the base's own pictures of a caption
    share: Interval  # of the two
    levels: tuple[Level, ...]
    worst: tuple[Pair, ...]
    evaluation: Evaluation  # how pictures of both follow their captions

    def write(self, folder: Path) -> None:
        """Write forgetting.json."""
        atomic.write_text(folder / FILE, json.dumps(records.to_json(self), indent=1, allow_nan=False) + "\n")

    def words(self) -> str:
        """In a sentence."""
        if self.share.high < LITTLE:
            return "The adapter leaves what these captions show nearly as it was."
        if self.share.low > ANOTHER:
            return "The adapter changes pictures of these captions more than another seed does."
        part = self.share.text("{:.0%}")
        return f"The adapter changes pictures of these captions, by {part} of what another seed does."


def read(folder: Path) -> Forgetting | None:
    """What was found of a run; None where nobody looked. Raises CheckpointError for a file that is damaged."""
    return records.read(Forgetting, folder / FILE) if (folder / FILE).is_file() else None


def distances(base: Float[Tensor, "n d"], adapted: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """1 - cosine between the features of pictures with the same caption and seed."""
    return 1 - torch.nn.functional.cosine_similarity(base.double(), adapted.double())


def moved(
    base: Float[Tensor, "n d"], apart: Float[Tensor, " n"], groups: Int[Tensor, " n"]
) -> tuple[Interval, Interval, Interval]:
    """How far pictures moved, how far another seed moves the base's, and the first as a share of the second.

    `groups` are the numbers of the captions, of which each has several pictures. Means have Student's interval, the
    share that of a jackknife, all over captions.
    """
    by_seed = within_group(base, groups)
    nobody = torch.empty(0, dtype=torch.long)

    def share(out: Int[Tensor, " k"]) -> float:
        kept = ~torch.isin(groups, out)
        return float(means_by(apart[kept], groups[kept]).mean() / means_by(by_seed[kept], groups[kept]).mean())

    folds = folds_of(groups)
    return (
        mean_of(means_by(apart, groups)),
        mean_of(means_by(by_seed, groups)),
        jackknifed(share(nobody), len(groups), [folds], share),
    )


@dataclass(frozen=True)
class Asked:
    """The predictions of one model for the same pictures at the same noise."""

    captioned: Predictions
    shuffled: Predictions  # under another picture's caption
    unconditional: Predictions | None


def levels(base: Asked, adapted: Asked) -> tuple[Level, ...]:
    """What happened to the predictions at each noise level, with Student's intervals over pictures."""
    usual = _errors(base.captioned).mean(0)

    def shares(values: Float[Tensor, "n k"]) -> list[Interval]:
        return [mean_of(values[:, k]).over(float(usual[k])) for k in range(NUM_LEVELS)]

    def gains(asked: Asked, other: Predictions | None) -> list[Interval | None]:
        return [None] * NUM_LEVELS if other is None else [*shares(_errors(other) - _errors(asked.captioned))]

    without: list[Interval | None] = [None] * NUM_LEVELS
    if base.unconditional is not None and adapted.unconditional is not None:
        without = [*shares(_apart(base.unconditional, adapted.unconditional))]
    with_captions = shares(_apart(base.captioned, adapted.captioned))
    gain_base, gain = gains(base, base.unconditional), gains(adapted, adapted.unconditional)
    shuffles = [shares(_errors(asked.shuffled) - _errors(asked.captioned)) for asked in (base, adapted)]
    return tuple(
        Level(
            t=(k + 0.5) / NUM_LEVELS,
            moved=with_captions[k],
            moved_unconditional=without[k],
            gain_base=gain_base[k],
            gain=gain[k],
            shuffle_gain_base=shuffles[0][k],
            shuffle_gain=shuffles[1][k],
        )
        for k in range(NUM_LEVELS)
    )


def _errors(predictions: Predictions) -> Float[Tensor, "n k"]:
    return torch.stack([(made - target).double().square().mean((1, 2, 3)) for made, target in predictions])


def _apart(one: Predictions, other: Predictions) -> Float[Tensor, "n k"]:
    pairs = zip(one, other, strict=True)
    return torch.stack([(a - b).double().square().mean((1, 2, 3)) for (a, _), (b, _) in pairs])
