"""The metrics of a set of pictures, in one table: measurement, evaluation.json, the report and the card follow it.

A new metric is a function of `Compared` and a row of METRICS.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from pipeline.evaluation import statistics
from pipeline.evaluation.extractors import Extractors
from pipeline.evaluation.picture_sets import kept
from pipeline.evaluation.statistics import Interval

Need = Literal["features", "ranks", "encoder", "photographs", "reference", "base"]
EXTRACTOR_OF: dict[Need, str] = {
    "features": "features",
    "ranks": "features",
    "encoder": "encoder",
    "photographs": "photographs",
}


@dataclass(frozen=True)
class PictureSet:
    """A folder of pictures with the outputs of the extractors, each computed when a metric first asks and then kept.

    Picture i belongs to caption i, so row i of any two sets of a test set belong together.
    """

    folder: Path
    names: tuple[str, ...]  # of the files in the dataset: what a feature extractor that knows the answers goes by
    extractors: Extractors | None

    @functools.cached_property
    def pictures(self) -> list[Image.Image]:
        """The pictures themselves, in the order of index.json."""
        return [Image.open(row["path"]).convert("RGB") for row in kept(self.folder)]

    @functools.cached_property
    def features(self) -> Float[Tensor, "n d"]:
        """What distances are measured in."""
        assert self.extractors is not None
        return self.extractors.features.features(self.pictures)

    @functools.cached_property
    def seen_as_photographs(self) -> Float[Tensor, "n d"]:
        """The features of the network that was trained on photographs."""
        assert self.extractors is not None
        assert self.extractors.photographs is not None
        return self.extractors.photographs.features(self.pictures)

    @functools.cached_property
    def ranks(self) -> Int[Tensor, " n"]:
        """The place of the right answer among the guesses: 0 is the first."""
        assert self.extractors is not None
        assert self.extractors.features.ranks is not None
        return self.extractors.features.ranks(self.pictures, list(self.names))

    @functools.cached_property
    def image_embeddings(self) -> Float[Tensor, "n d"]:
        """The pictures in the space of the image-text encoder."""
        assert self.extractors is not None
        return self.extractors.encoder.pictures(self.pictures)

    @functools.cached_property
    def caption_embeddings(self) -> Float[Tensor, "n d"]:
        """The captions in the same space."""
        assert self.extractors is not None
        return self.extractors.encoder.captions([row["prompt"] for row in kept(self.folder)])


@dataclass(frozen=True)
class Compared:
    """What a metric may look at: the pictures to be measured, the reference, and the base model's pictures."""

    pictures: PictureSet
    reference: PictureSet  # the same object where the reference itself is measured
    base: PictureSet | None = None  # only where the pictures are compared with the base's

    @property
    def at_hand(self) -> set[Need]:
        """What a metric may need of it."""
        found: set[Need] = set()
        if extractors := self.pictures.extractors:
            found |= {"features", "encoder"}
            found |= {"ranks"} if extractors.features.ranks is not None else set()
            found |= {"photographs"} if extractors.photographs is not None else set()
        found |= {"reference"} if self.reference is not self.pictures else set()
        return found | ({"base"} if self.base is not None else set())


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A row of the table: how a metric is shown, what it needs, and the function that measures it."""

    label: str  # in words
    short: str  # what the literature calls it
    form: str  # of a number, for str.format
    better: Literal["lower", "higher", "nearer the reference"] | None  # None where it is neither
    needs: frozenset[Need]
    function: Callable[[Compared], Interval]
    min_pictures: int = 1
    of_reference: str = ""  # what the reference would have, where it is not measured on it


@dataclass(frozen=True)
class Estimate(Interval):
    """A measured value with its 95 % interval: the metric's name in the table, and what it was measured with."""

    metric: str
    extractor: str | None = None


def kid(given: Compared) -> Interval:
    """Kernel distance to the reference, for pairs (statistics.kid)."""
    return statistics.kid(given.reference.features, given.pictures.features)


def kid_photographs(given: Compared) -> Interval:
    """The same distance as a network sees it that was trained on photographs (statistics.scaled_kid)."""
    return statistics.scaled_kid(given.reference.seen_as_photographs, given.pictures.seen_as_photographs)


def own_nearest(given: Compared) -> Interval:
    """How often a picture's own reference is nearer to it, for that network, than any other's."""
    return statistics.own_is_nearest(given.reference.seen_as_photographs, given.pictures.seen_as_photographs)


def among_first(count: int, given: Compared) -> Interval:
    """The share of pictures whose subject is among the first `count` guesses."""
    return statistics.share(int((given.pictures.ranks < count).sum()), len(given.pictures.ranks))


def clip_margin(given: Compared) -> Interval:
    """The mean of how much nearer a picture is to its own caption than to the others (statistics.margins)."""
    return statistics.mean_of(_margins(given.pictures, given.reference))


def clip_margin_change(given: Compared) -> Interval:
    """The mean change of that margin from the base's picture of the same caption and seed."""
    assert given.base is not None
    now, before = (_margins(pictures, given.reference) for pictures in (given.pictures, given.base))
    return statistics.paired_change(now, before)


def _margins(pictures: PictureSet, reference: PictureSet) -> Float[Tensor, " n"]:
    return statistics.margins(pictures.image_embeddings, reference.caption_embeddings)


METRICS: dict[str, Metric] = {
    "kid": Metric(
        label="Distance to the reference",
        short="KID",
        form="{:.3f}",
        better="lower",
        needs=frozenset({"features", "reference"}),
        function=kid,
        min_pictures=3,  # the jackknife deletes one and needs a pair to be left
        of_reference="0 by definition",
    ),
    "kid_photographs": Metric(
        label="The same for a network trained on photographs",
        short="KID",
        form="{:.3f}",
        better="lower",
        needs=frozenset({"photographs", "reference"}),
        function=kid_photographs,
        min_pictures=3,
        of_reference="0 by definition",
    ),
    "own_nearest": Metric(
        label="Its own reference is the nearest of all",
        short="nearest",
        form="{:.0%}",
        better="higher",
        needs=frozenset({"photographs", "reference"}),
        function=own_nearest,
        of_reference="100% by definition",
    ),
    "top1": Metric(
        label="Subject recognised at first guess",
        short="top-1",
        form="{:.0%}",
        better="higher",
        needs=frozenset({"ranks"}),
        function=functools.partial(among_first, 1),
    ),
    "top5": Metric(
        label="Subject among five guesses",
        short="top-5",
        form="{:.0%}",
        better="higher",
        needs=frozenset({"ranks"}),
        function=functools.partial(among_first, 5),
    ),
    "clip_margin": Metric(
        label="Nearer to its own caption than to the others",
        short="CLIP margin",
        form="{:.3f}",
        better="nearer the reference",  # plain renders lie far above it
        needs=frozenset({"encoder"}),
        function=clip_margin,
    ),
    "clip_margin_change": Metric(
        label="Change of that margin from the base, picture by picture",
        short="CLIP margin change",
        form="{:+.3f}",
        better=None,  # towards the reference may be up or down
        needs=frozenset({"encoder", "base"}),
        function=clip_margin_change,
    ),
}


def measure(
    pictures: PictureSet,
    reference: PictureSet,
    metrics: Mapping[str, Metric] = METRICS,
    *,
    base: PictureSet | None = None,
) -> list[Estimate]:
    """The metrics that can be measured on a set of pictures, in the order of the table.

    `reference` is the same object where the reference itself is measured; `base` is given where the pictures are to be
    compared with the base model's.
    """
    given = Compared(pictures, reference, base)
    return [
        Estimate(**vars(metric.function(given)), metric=name, extractor=_extractor(metric, pictures.extractors))
        for name, metric in metrics.items()
        if metric.needs <= given.at_hand and len(pictures.names) >= metric.min_pictures
    ]


def _extractor(metric: Metric, extractors: Extractors | None) -> str | None:
    """The names of the extractors a metric needs; None for one that looks at bare pictures."""
    names = extractors.names if extractors else {}
    kinds = sorted({EXTRACTOR_OF[need] for need in metric.needs if need in EXTRACTOR_OF}, reverse=True)
    return " and ".join(dict.fromkeys(names[kind] for kind in kinds)) or None
