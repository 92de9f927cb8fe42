"""The metrics, in one table: measurement, evaluation.json, the pages and the card follow it.

A new metric is a function of `Compared` and a row of METRICS: of each picture, or of the whole set.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from pipeline.evaluation.metrics import adherence, distances, diversity, neighbours
from pipeline.evaluation.metrics.compared import Compared, Need, OtherRows, Rows, Values
from pipeline.evaluation.statistics import Interval

TwoSets = Callable[[Rows, OtherRows], float]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A row of the table: how a metric is shown, what it needs, and the one function that measures it."""

    label: str  # in words
    short: str  # what the literature calls it
    plain: str = ""  # the same where Inception-v3 looks, as the name alone promises
    form: str  # of a number, for str.format
    better: Literal["lower", "higher", "nearer the reference"] | None  # None where it is neither
    needs: frozenset[Need]
    blind: str = ""  # what it does not see
    values: Callable[[Compared], Values] | None = None  # of each picture: it is their mean
    value: Callable[[Compared], float] | None = None  # of the whole set
    interval: Callable[[Compared], Interval] | None = None  # where the set's has one of its own
    is_share: bool = False  # values are 0 or 1, or the set's lies between
    between: tuple[float, float] | None = None  # values can be no others, nor ends of intervals
    of_caption: bool = False  # values say how well each picture follows its caption; more is better
    min_pictures: int = 1
    of_reference: str = ""  # what the reference would have, where it is not measured on it
    in_runs: bool = True  # measured at the end of every run, not by `evaluate` alone


def features_of(given: Compared) -> tuple[Rows, OtherRows]:
    """Reference and pictures in the extractor's features, of a size of about 1 where that matters."""
    assert given.extractor is not None
    assert given.reference is not None
    real, fake = given.reference.features, given.pictures.features
    assert real is not None
    assert fake is not None
    return (real, fake) if given.extractor.is_scaled else distances.scaled(real, fake)


def kid(given: Compared) -> Interval:
    """Kernel distance to the reference (distances.kid)."""
    assert given.reference is not None
    return distances.kid(*features_of(given), given.reference.groups, given.pictures.groups)


def cmmd(given: Compared) -> Interval:
    """Distance of the mean embeddings (distances.cmmd)."""
    reference, pictures = given.reference, given.pictures
    assert reference is not None
    assert reference.features is not None
    assert pictures.features is not None
    return distances.cmmd(reference.features, pictures.features, reference.groups, pictures.groups)


def two_sets(function: TwoSets, given: Compared) -> float:
    """Any function of the features of reference and pictures."""
    return function(*features_of(given))


def own_nearest(given: Compared) -> Values:
    """Whether a picture's own reference is nearer to it than any other's (neighbours.own_is_nearest)."""
    assert given.reference is not None
    return neighbours.own_is_nearest(*features_of(given), given.reference.groups, given.pictures.groups)


def nearest_similarity(given: Compared) -> Values:
    """How like the most similar reference each picture is (neighbours.nearest_similarity)."""
    return neighbours.nearest_similarity(*features_of(given))


def among_first(count: int, given: Compared) -> Values:
    """Whether the subject of a picture is among the first `count` guesses."""
    assert given.extractor is not None
    assert given.extractor.ranks is not None
    assert given.pictures.features is not None
    return (given.extractor.ranks(given.pictures.features, list(given.pictures.names)) < count).double()


def with_captions(function: Callable[[Rows, Rows], Values], given: Compared) -> Values:
    """Any function of the embeddings of pictures and of their captions."""
    assert given.pictures.features is not None
    assert given.pictures.captions is not None
    return function(given.pictures.features, given.pictures.captions)


def vendi(given: Compared) -> float:
    """The number of pictures unlike each other (diversity.vendi)."""
    assert given.pictures.features is not None
    return diversity.vendi(given.pictures.features)


def within_caption(given: Compared) -> Values:
    """How unlike a picture is to the others of its caption (diversity.within_group)."""
    assert given.pictures.features is not None
    return diversity.within_group(given.pictures.features, given.pictures.groups)


def inception_score(given: Compared) -> float:
    """Sure and various classes (diversity.inception)."""
    assert given.extractor is not None
    assert given.extractor.classify is not None
    assert given.pictures.features is not None
    return diversity.inception(given.extractor.classify(given.pictures.features))


def score(given: Compared) -> Values:
    """What a model that scores pictures says of each."""
    assert given.pictures.features is not None
    return given.pictures.features[:, 0].double()


def readings_of(given: Compared) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a model reads in the pictures, and their captions."""
    assert given.pictures.readings is not None
    return given.pictures.readings, given.pictures.prompts


def others(prompts: Sequence[str]) -> tuple[str, ...]:
    """For each picture the next caption that is another one; its own where all are equal."""
    n = len(prompts)
    following = ((prompts[(row + step) % n] for step in range(1, n)) for row in range(n))
    return tuple(
        next((text for text in texts if text != own), own) for own, texts in zip(prompts, following, strict=True)
    )


def bleu(given: Compared, *, shuffled: bool = False) -> float:
    """BLEU of what is read with the captions, or with other ones (adherence.bleu)."""
    said, wanted = readings_of(given)
    return adherence.bleu(said, others(wanted) if shuffled else wanted)


def rouge_l(given: Compared, *, shuffled: bool = False) -> Values:
    """ROUGE-L of the same (adherence.rouge_l)."""
    said, wanted = readings_of(given)
    pairs = zip(said, others(wanted) if shuffled else wanted, strict=True)
    return torch.tensor([adherence.rouge_l(*pair) for pair in pairs], dtype=torch.float64)


def written(given: Compared) -> Values:
    """How well what a caption wants written can be read; NaN for one that wants nothing (adherence.written)."""
    said, wanted = readings_of(given)
    quoted = [adherence.quoted(text) for text in wanted]
    found = [adherence.written(read, text) if text else float("nan") for read, text in zip(said, quoted, strict=True)]
    return torch.tensor(found, dtype=torch.float64)


def _row(label: str, short: str, form: str, better: Any, needs: set[Need], **more: Any) -> Metric:
    return Metric(label=label, short=short, form=form, better=better, needs=frozenset(needs), **more)


IN_SETS: dict[str, Any] = {"of_reference": "0 by definition", "min_pictures": 3}  # a jackknife needs a pair to be left
BALLS: dict[str, Any] = {"min_pictures": 12, "in_runs": False}  # more than two pictures for each neighbour
SHARES: dict[str, Any] = {**BALLS, "is_share": True}
READ: dict[str, Any] = {
    "in_runs": False,
    "blind": "What the reader does not know to say; its ceiling is the reference's.",
}

METRICS: dict[str, Metric] = {
    "kid": _row(
        "Distance to the reference", "KID", "{:.3f}", "lower", {"distances", "reference"},
        interval=kid, value=lambda given: kid(given).value, **IN_SETS,
        blind="Whether a picture fits its own caption, and fine detail that the extractor passes over.",
    ),
    "fid": _row(
        "Distance of Gaussians to the reference", "Fréchet distance", "{:.2f}", "lower", {"distances", "reference"},
        plain="FID",
        value=functools.partial(two_sets, distances.frechet), of_reference="0 by definition", min_pictures=500,
        in_runs=False, blind="All but mean and covariance. It is too high by about c / n: compare equal n only.",
    ),
    "fid_infinity": _row(
        "The same for infinitely many pictures", "Fréchet distance, n = ∞", "{:.2f}", "lower",
        {"distances", "reference"}, plain="FID∞",
        value=functools.partial(two_sets, distances.frechet_at_infinity), of_reference="0 by definition",
        min_pictures=500, in_runs=False, blind="All but mean and covariance. Extrapolated, so noisier than FID.",
    ),
    "own_nearest": _row(
        "Its own reference is the nearest of all", "nearest", "{:.0%}", "higher", {"distances", "own", "rivals"},
        values=own_nearest, is_share=True, of_reference="100% by definition",
        blind="How near it is: only which one is nearest.",
    ),
    "nearest_similarity": _row(
        "Likeness to the most similar reference", "cosine", "{:.3f}", "nearer the reference",
        {"distances", "reference"}, values=nearest_similarity, in_runs=False, of_reference="1 by definition",
        between=(-1, 1),
        blind="Copying: a copy has the best value of all.",
    ),
    "precision": _row(
        "Pictures that lie where the reference lies", "precision", "{:.0%}", "higher", {"distances", "reference"},
        value=functools.partial(two_sets, neighbours.precision), of_reference="100% by definition", **SHARES,
        blind="Whether anything is left out: one good picture drawn again and again has the best value.",
    ),
    "recall": _row(
        "References that lie where pictures lie", "recall", "{:.0%}", "higher", {"distances", "reference"},
        value=functools.partial(two_sets, neighbours.recall), of_reference="100% by definition", **SHARES,
        blind="Whether pictures are good: one far outlier widens what counts as covered.",
    ),
    "density": _row(
        "References around each picture", "density", "{:.2f}", "nearer the reference", {"distances", "reference"},
        value=functools.partial(two_sets, neighbours.density), of_reference="1 on average", **BALLS,
        blind="Whether anything is left out; above 1 where pictures crowd in the middle of the reference.",
    ),
    "coverage": _row(
        "References with a picture near by", "coverage", "{:.0%}", "higher", {"distances", "reference"},
        value=functools.partial(two_sets, neighbours.coverage), of_reference="97% for a second reference", **SHARES,
        blind="How often each is drawn; grows with the number of pictures.",
    ),
    "vendi": _row(
        "Pictures that are unlike each other", "Vendi", "{:.1f}", "nearer the reference", {"distances"}, value=vendi,
        min_pictures=3, in_runs=False, blind="Whether they are good. It grows with n: compare equal n only.",
    ),
    "within_caption": _row(
        "Unlikeness of the pictures of one caption", "1 - cosine", "{:.3f}", None, {"distances", "several"},
        values=within_caption, in_runs=False, blind="Whether they fit the caption: noise is most various of all.",
    ),
    "inception_score": _row(
        "Sure and various classes", "class score", "{:.2f}", "nearer the reference", {"classes"}, value=inception_score,
        plain="IS", min_pictures=3, in_runs=False,
        blind="The reference and the captions; what is none of its classes. Too low where n is small.",
    ),
    "top1": _row(
        "Subject recognised at first guess", "top-1", "{:.0%}", "higher", {"answers"},
        values=functools.partial(among_first, 1), is_share=True, of_caption=True, blind="Everything but the subject.",
    ),
    "top5": _row(
        "Subject among five guesses", "top-5", "{:.0%}", "higher", {"answers"},
        values=functools.partial(among_first, 5), is_share=True, of_caption=True, blind="Everything but the subject.",
    ),
    "clip_score": _row(
        "Nearness to its caption", "CLIP score", "{:.1f}", "nearer the reference", {"captions"},
        values=functools.partial(with_captions, adherence.clip_score), in_runs=False, of_caption=True,
        between=(0, 100),
        blind="Counts, places and who does what; it rises with whatever all captions share.",
    ),
    "clip_margin": _row(
        "Nearer to its own caption than to the others", "CLIP margin", "{:.3f}", "nearer the reference",
        {"captions", "rivals"},
        values=functools.partial(with_captions, adherence.margins),  # plain renders lie far above the reference
        of_caption=True,
        blind="Counts, places and who does what.",
    ),
    "r_precision": _row(
        "Its own caption is the nearest (of 100 at most)", "R-precision", "{:.0%}", "higher", {"captions", "rivals"},
        values=functools.partial(with_captions, adherence.r_precision), is_share=True, in_runs=False,
        of_caption=True,
        blind="How near it is; easier where captions are fewer or differ more.",
    ),
    "cmmd": _row(
        "Distance of the mean embeddings", "CMMD", "{:.3f}", "lower", {"captions", "reference"}, interval=cmmd,
        value=lambda given: cmmd(given).value, in_runs=False, **IN_SETS,
        blind="Variety: pictures that are all the mean have the best value.",
    ),
    "aesthetic": _row(
        "What its model finds beautiful", "aesthetic", "{:.2f}", None, {"score"}, values=score, in_runs=False,
        blind="Caption and reference; the taste is that of whoever rated its training pictures.",
    ),
    "bleu": _row(
        "What is read in it, against its caption", "BLEU", "{:.1f}", "nearer the reference", {"readings"},
        value=bleu, min_pictures=3, between=(0, 100), **READ,
    ),
    "bleu_shuffled": _row(
        "The same against another caption: the floor", "BLEU, shuffled", "{:.1f}", None,
        {"readings", "rivals"},
        value=functools.partial(bleu, shuffled=True), min_pictures=3, between=(0, 100), **READ,
    ),
    "rouge_l": _row(
        "Words in common and in order", "ROUGE-L", "{:.3f}", "nearer the reference", {"readings"},
        values=rouge_l, of_caption=True, between=(0, 1), **READ,
    ),
    "rouge_l_shuffled": _row(
        "The same against another caption: the floor", "ROUGE-L, shuffled", "{:.3f}", None,
        {"readings", "rivals"},
        values=functools.partial(rouge_l, shuffled=True), between=(0, 1), **READ,
    ),
    "written": _row(
        "Legible words that the caption asks for", "1 - edit distance", "{:.0%}", "higher", {"letters"},
        values=written, in_runs=False, of_caption=True, between=(0, 1),
        blind="Captions that quote nothing, and how the words look.",
    ),
}  # fmt: skip
