"""The page of an evaluation says what the intervals carry."""

import pytest

from pipeline.evaluation.metrics.measure import Estimate
from pipeline.evaluation.results import Evaluation
from pipeline.report import evaluation_page

pytestmark = pytest.mark.unit


def evaluation(**changes: tuple[float, float]) -> Evaluation:
    """With the ends of the interval of the change of KID, by extractor."""
    sets = {
        "change": {
            name: Estimate((low + high) / 2, float(low), float(high), 9, "kid", name)
            for name, (low, high) in changes.items()
        },
        "base": {name: Estimate(2.0, 1.0, 3.0, 9, "kid", name) for name in changes},
    }
    return Evaluation(9, {name: name for name in changes}, sets)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"a": (-1, -0.5)}, "The adapter is nearer to the reference than its base, for the one extractor."),
        ({"a": (-1, -0.5), "b": (-3, -2)}, "The adapter is nearer to the reference than its base, for 2 extractors."),
        ({"a": (0.5, 1), "b": (2, 3)}, "The adapter is farther from the reference than its base, for 2 extractors."),
        (
            {"a": (-1, -0.5), "b": (2, 3), "c": (-1, 1)},
            "Nearer to the reference than its base for 1 of 3 extractors, farther for 1; it may be chance for 1.",
        ),
        ({}, "What was drawn from 9 captions, and what is seen in it."),
    ],
)
def test_the_headline(changes, said):
    assert evaluation_page.headline(evaluation(**changes)) == said


def test_changes_are_told_as_shares_of_the_base():
    assert evaluation_page.sentences(evaluation(a=(-1.0, -0.5))) == [
        "a: the distance to the reference (KID) changed by -38% [-50%, -25%]."
    ]
    margin = {which: {"m": Estimate(v, v, v, 9, "clip_margin", "c")} for which, v in (("base", 0.1), ("adapted", 0.25))}
    found = Evaluation(9, {"clip": "c"}, margin)
    assert evaluation_page.sentences(found) == ["c: pictures had a margin of 0.100 to their captions, now 0.250."]
