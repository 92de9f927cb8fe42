"""What each metric makes of a flaw: it sees what it is for, and does not see what it says it is blind to."""

import itertools
import json
import math
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from pipeline import shipped
from pipeline.evaluation import looking
from pipeline.evaluation.extractors import photographs
from pipeline.evaluation.looking import PictureSet
from pipeline.evaluation.metrics.table import METRICS
from pipeline.evaluation.picture_sets import keep
from pipeline.starter import reader

pytestmark = [pytest.mark.unit, pytest.mark.xdist_group("flaws")]  # or both workers would look at the same pictures
NUMBER = 40
SEEN = json.loads((Path(__file__).parents[2] / "docs" / "metrics.json").read_text(encoding="utf-8"))
GROWS = {
    "blur": {"kid": 1, "precision": -1, "coverage": -1, "nearest_similarity": -1},
    "fewer": {"kid": 1, "recall": -1, "coverage": -1, "vendi": -1},
    "exchanged": {"clip_score": -1, "clip_margin": -1},
}
OF_SETS = ["kid", "precision", "recall", "coverage", "vendi", "inception_score", "cmmd"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What a flaw changes in the metrics that are asked about: of half of the starter's test set, against the rest."""
    folder = tmp_path_factory.mktemp("flaws")
    text = (shipped.TEST / "metadata.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()][: 2 * NUMBER]
    pictures = [Image.open(shipped.TEST / row["file_name"]).convert("RGB") for row in rows]
    captions = [row["text"] for row in rows]

    def kept(name: str, some: list[Image.Image], first: int) -> PictureSet:
        index = [{"file": f"{i:03d}.png", "prompt": captions[first + i]} for i in range(NUMBER)]
        keep(folder / name, some, index, drawn=False)
        return PictureSet(folder / name, (), tuple(range(first, first + NUMBER)))

    whole = pictures[:NUMBER]
    truth, clean = kept("truth", pictures[NUMBER:], NUMBER), kept("clean", whole, 0)
    flawed = {
        "blur": [picture.filter(ImageFilter.GaussianBlur(3)) for picture in whole],
        "fewer": [whole[place % 3] for place in range(NUMBER)],
        "exchanged": whole[1:] + whole[:1],
    }
    extractors = (photographs.extractor(), reader.load())
    found = {}
    for name, some in flawed.items():
        sets = {"adapted": kept(name, some, 0), "base": clean, "reference": truth}
        asked = {metric: METRICS[metric] for metric in (*GROWS[name], *(OF_SETS if name == "exchanged" else ()))}
        changes = looking.estimates(sets, extractors, metrics=asked, cache=folder / "cache")["change"]
        found[name] = {one.metric: one for one in changes}
    return found


CASES = [(flaw, metric, sign) for flaw, metrics in GROWS.items() for metric, sign in metrics.items()]


@pytest.mark.parametrize(("flaw", "metric", "sign"), CASES)
def test_a_metric_sees_what_it_is_for(measured, flaw, metric, sign):
    change = measured[flaw][metric]
    assert change.low * sign > 0
    assert change.high * sign > 0


@pytest.mark.parametrize("metric", OF_SETS)
def test_a_metric_of_sets_does_not_see_whose_caption_a_picture_has(measured, metric):
    assert measured["exchanged"][metric].value == pytest.approx(0, abs=1e-3)


EXPECTED = {  # docs/metrics.json: the sign of the change from the first strength to the last
    "kid": {"blur": 1, "noise": 1, "fewer pictures": 1},
    "fid": {"blur": 1, "noise": 1, "fewer pictures": 1},
    "cmmd": {"blur": 1, "noise": 1, "fewer pictures": 1},
    "precision": {"blur": -1, "noise": -1},
    "recall": {"fewer pictures": -1},
    "density": {"blur": -1, "noise": -1},
    "coverage": {"blur": -1, "noise": -1, "fewer pictures": -1},
    "nearest_similarity": {"blur": -1, "noise": -1},
    "vendi": {"fewer pictures": -1},
    "clip_score": {"wrong captions": -1},
    "clip_margin": {"wrong captions": -1},
    "r_precision": {"wrong captions": -1},
}
STEPS = [(metric, flaw, sign) for metric, flaws in EXPECTED.items() for flaw, sign in flaws.items()]


@pytest.mark.parametrize(("metric", "flaw", "sign"), STEPS)
def test_the_picture_in_the_docs_shows_what_a_growing_flaw_does(metric, flaw, sign):
    """Never the wrong way by more than the interval, and in the end far beyond it."""
    rows = [row[metric] for row in SEEN[flaw]]
    for before, after in itertools.pairwise(rows):
        half = max((row["high"] - row["low"]) / 2 for row in (before, after))
        assert (after["value"] - before["value"]) * sign >= -half
    first, last = rows[0], rows[-1]
    apart = last["low"] - first["high"] if sign > 0 else first["low"] - last["high"]
    assert math.isfinite(apart)
    assert apart > 0


def test_the_docs_say_of_every_metric_what_it_does_not_see():
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for name, metric in METRICS.items():
        lines = [line for line in text.splitlines() if f"**{metric.short}" in line]
        assert any(metric.label in line and line.endswith(f"| {metric.blind} |") for line in lines), name
