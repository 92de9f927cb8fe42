import dataclasses
import re
import shutil
from html.parser import HTMLParser

import pytest
from PIL import Image, ImageOps

from pipeline.evaluation.extractors import photographs
from pipeline.evaluation.metrics.measure import Estimate
from pipeline.evaluation.results import Evaluation
from pipeline.report import charts, page
from tests.running import Running, whole_grid

pytestmark = pytest.mark.unit


@pytest.fixture
def finished(small, colours, tmp_path):
    out, truth = tmp_path / "out <b>", tmp_path / "reference"
    shutil.copytree(colours, truth)
    for path in truth.glob("*.png"):
        ImageOps.mirror(Image.open(path)).save(path)
    words = [*small, "--evaluation_data_dir", str(truth), "--validation_split", "0.5", "--output_dir", str(out)]
    ended = Running(words, tmp_path / "log", prepared=whole_grid).wait()
    assert ended.code == 0, ended.output
    return out


class Checker(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links, self.images, self.text = [], 0, []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.images += tag == "img"
        self.links += [found[key] for key in ("src", "href") if key in found]
        assert tag != "script"

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_needs_nothing_beside_it(finished):
    text = (finished / page.FILE).read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    assert all(link.startswith("data:image/png;base64,") for link in checker.links)
    assert checker.images >= 8 * 3 + 12 + 4  # base, adapted and reference; the grid; what it was trained on
    words = " ".join(checker.text)
    expected = ("a purple square", "Verified: the saved file", "load_lora_weights", "12 of 2 examples", "out <b>")
    for said in (*expected, "scale 1.5", "guidance 15", "training steps"):
        assert said in words
    assert "<svg" in text
    assert len(text) < 3_000_000


def test_the_headline_claims_only_what_the_intervals_carry():
    def measured(adapted: float, half: float = 1.0) -> Evaluation:
        values = {"base": 8.0, "adapted": adapted}
        kid = {name: Estimate(v, v - half, v + half, 160, "kid", "x") for name, v in values.items()}
        return Evaluation(160, {"judge": "x"}, {name: {"kid": value} for name, value in kid.items()})

    assert "fell to 25%" in page.headline(measured(2.0), 300)
    assert "fell to 0%" in page.headline(measured(-0.1), 300)
    assert "that may be chance" in page.headline(measured(7.0), 300)
    assert "no nearer" in page.headline(measured(10.3), 300)
    sure = measured(2.0)
    change = Estimate(-6.0, -13.0, 1.0, 160, "kid", "x")  # of pairs, which the two intervals do not know
    unsure = dataclasses.replace(sure, sets={**sure.sets, "change": {"kid": change}})
    assert "that may be chance" in page.headline(unsure, 300)
    assert "proven to load" in page.headline(Evaluation(4, {}, {"adapted": {}}), 300)


def test_the_judge_that_is_not_ours_has_the_first_word():
    def measured(ours: float, theirs: float) -> str:
        values = {"x": {"base": 8.0, "adapted": ours}, photographs.NAME: {"base": 0.8, "adapted": theirs}}
        sets = {
            which: {
                f"kid, {judge}": Estimate(v[which], v[which] - 0.1, v[which] + 0.1, 9, "kid", judge)
                for judge, v in values.items()
            }
            for which in ("base", "adapted")
        }
        found = Evaluation(9, {"judge": "x", "photographs": photographs.NAME}, sets)
        return f"{page.headline(found, 300)} {page.opinions(found)}"

    whose = f"So says {photographs.NAME}."
    both = measured(2.0, 0.4)
    assert "fell to 50% of" in both
    assert f"{whose} x agrees: for that one it is nearer, 2 away with the adapter, 8 without" in both
    assert f"{whose} x disagrees: for that one it is nearer, 2" in measured(2.0, 1.1)
    assert f"{whose} x disagrees: for that one it is no nearer, 9" in measured(9.0, 0.2)
    assert f"{whose} x agrees: for that one it is no nearer" in measured(9.0, 1.1)
    assert "no nearer to the reference than the base model is: 1.1 away" in measured(2.0, 1.1)
    assert page.opinions(Evaluation(4, {}, {"adapted": {}})) == ""
    alone = {"kid": Estimate(1.0, 0.9, 1.1, 9, "kid", "x")}
    assert page.opinions(Evaluation(9, {"judge": "x"}, {"base": alone, "adapted": alone})) == "So says x."


def test_the_page_says_what_to_install_where_nobody_who_knows_photographs_was_asked():
    kid = Estimate(1.0, 0.9, 1.1, 9, "kid", "x")
    asked = Evaluation(9, {"judge": "x", "photographs": "y"}, {"base": {"kid": kid}})
    assert "t2i-lora[eval]" not in page.measured_by(asked)
    assert "t2i-lora[eval]" in page.measured_by(dataclasses.replace(asked, extractors={"judge": "x"}))


def test_the_chart_holds_every_finite_value_and_a_smooth_line():
    drawn = charts.curve(list(range(1, 31)), [1.0] * 29 + [float("nan")], "loss")
    lines = re.findall(r'points="([^"]+)"', drawn)
    assert [len(line.split()) for line in lines] == [29, 29]
    assert charts.curve([1], [1.0], "loss") == ""
    assert charts.smoothed([0.0, 3.0, 0.0], 3) == [1.5, 1.0, 1.5]
