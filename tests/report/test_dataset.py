"""What the page says of the data follows from its numbers, and only where it says something."""

import pytest

from pipeline.report.dataset import words

pytestmark = pytest.mark.unit


def facts(**changed) -> dict:
    side = {"smallest": 512, "median": 700, "largest": 900}
    found = {"examples": 90, "held_out": 10, "captions": 90, "distinct_captions": 90, "words": 7.5, "side": side}
    return {**found, "skipped": 0, "copies": 0, **changed}


def test_a_sound_dataset_gets_two_sentences():
    said = words(facts(), 512)
    assert len(said) == 2
    assert "512 to 900 pixels (median 700); the model sees 512" in said[0]
    assert "90 captions, 90 of them different, 7.5 words" in said[1]


def test_what_stands_out_is_said():
    equal = {"smallest": 64, "median": 64, "largest": 64}
    assert "is 64 pixels; the model sees 64" in words(facts(side=equal), 64)[0]
    assert "enlarged" in words(facts(side=equal), 128)[-1]
    assert "captions are alike" in words(facts(distinct_captions=2), 512)[-1]
    assert "3 were left out" in words(facts(skipped=3), 512)[-1]
    assert "2 exist more than once" in words(facts(copies=2), 512)[-1]
