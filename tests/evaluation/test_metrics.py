"""The table of metrics: what is measured on which set, and that a new row is all that a new metric needs."""

import dataclasses
import functools
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.errors import CheckpointError
from pipeline.evaluation import looking, results, test_set
from pipeline.evaluation.extractors import photographs
from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.metrics.adherence import margins
from pipeline.evaluation.metrics.compared import Compared, Seen
from pipeline.evaluation.metrics.distances import kid
from pipeline.evaluation.metrics.measure import change_of, interval_of
from pipeline.evaluation.metrics.neighbours import own_is_nearest
from pipeline.evaluation.metrics.table import METRICS, Metric
from pipeline.evaluation.picture_sets import DrawSetRequest, draw_set, keep, kept
from pipeline.evaluation.sample import Sampler, SampleRequest, SampleSettings
from pipeline.evaluation.statistics import Interval, mean_of, paired_change, share
from pipeline.geometry import Size
from pipeline.report import page
from pipeline.sharing import card
from pipeline.starter import world
from tests.sharing.carded import BASE, DATA

pytestmark = pytest.mark.unit
NAMES = tuple(f"{number}.png" for number in range(5))


def flattened(pictures: list[Image.Image]) -> torch.Tensor:
    return torch.tensor([[float(value) / 255 for value in picture.resize((2, 2)).tobytes()] for picture in pictures])


def embedded(captions: list[str]) -> torch.Tensor:
    return torch.stack([torch.randn(12, generator=torch.Generator().manual_seed(len(text))) for text in captions])


def ranks(rows: torch.Tensor, names: list[str]) -> torch.Tensor:
    return torch.arange(len(names)) * 2


def extractors(*, answers: bool) -> tuple[Extractor, ...]:
    judge = Extractor(kind="judge", name="pixels", version="", features=flattened, ranks=ranks if answers else None)
    toy = Extractor(kind="clip", name="toy", version="", features=flattened, captions=embedded, takes_distances=False)
    return judge, toy


def by_name(evaluation: results.Evaluation, which: str, extractor: str | None = None) -> dict[str, Interval]:
    """The estimates of a set by the names of their metrics."""
    found = evaluation.sets[which].values()
    return {one.metric: one for one in found if extractor in (None, one.extractor)}


@pytest.fixture
def folders(tmp_path):
    """A base, an adapted and a reference set of five noisy pictures."""
    for number, which in enumerate(("reference", "base", "adapted")):
        generator = torch.Generator().manual_seed(number)
        noise = torch.randint(0, 256, (5, 4, 4, 3), generator=generator, dtype=torch.uint8).numpy()
        rows = [{"file": f"{i:04d}.png", "prompt": "x" * (i + 1), "seed": i} for i in range(5)]
        keep(tmp_path / which, [Image.fromarray(values) for values in noise], rows, drawn=which != "reference")
    return tmp_path


def drawn(folders, names: tuple[str, ...] = NAMES) -> test_set.DrawnTestSet:
    return test_set.DrawnTestSet(folders / "reference", folders / "base", folders / "adapted", names)


def test_every_set_is_measured_with_what_can_be_measured_on_it(folders):
    found = test_set.evaluate(drawn(folders), extractors(answers=True))
    of_set = ["kid", "own_nearest", "top1", "top5", "clip_margin"]
    assert {which: list(by_name(found, which)) for which in found.sets} == {
        "reference": ["top1", "top5", "clip_margin"],
        "base": of_set,
        "adapted": of_set,
        "change": of_set,
    }
    assert (found.n, found.extractors) == (5, {"judge": "pixels", "clip": "toy"})
    assert by_name(found, "adapted")["kid"].extractor == "pixels"
    assert by_name(found, "change")["clip_margin"].extractor == "toy"
    assert "top1" not in by_name(test_set.evaluate(drawn(folders), extractors(answers=False)), "base")
    assert test_set.evaluate(drawn(folders), ()) is None


def test_where_all_change_alike_that_is_no_certainty(folders):
    """Nothing of five was named right before, all of it after: the truth may still be less than all."""
    metric = METRICS["top1"]
    sides = {which: SimpleNamespace(pictures=SimpleNamespace(groups=torch.arange(5))) for which in ("now", "before")}
    values = {id(sides["now"]): torch.ones(5), id(sides["before"]): torch.zeros(5)}
    all_of_them = dataclasses.replace(metric, values=lambda given: values[id(given)])
    found = change_of(all_of_them, sides["now"], sides["before"])
    assert found.value == 1
    assert 0 < found.low < 0.7 < found.high <= 1


@pytest.mark.parametrize("name", ["precision", "recall", "coverage"])
@pytest.mark.parametrize("moved", [0.0, 50.0])
def test_where_neighbours_say_all_or_none_their_change_has_a_width(name, moved):
    draw = functools.partial(torch.randn, 24, 8, generator=torch.Generator().manual_seed(0))
    centres = draw()
    judge = Extractor(kind="vision", name="v", version="1", features=lambda _: torch.empty(0))
    true, now, before = (
        Seen(groups=torch.arange(24), prompts=("",) * 24, files=("",) * 24, features=centres + 0.3 * draw() + by)
        for by in (0.0, 0.0, moved)
    )
    change = change_of(METRICS[name], Compared(now, true, judge), Compared(before, true, judge))
    assert change.value == (1.0 if moved else 0.0)
    assert change.low < change.value - 0.1 < change.value <= change.high


def test_intervals_hold_no_values_that_cannot_be():
    """Student's of two pictures reach far beyond; of one there is none."""
    sides = [SimpleNamespace(pictures=SimpleNamespace(groups=torch.arange(2))) for _ in range(2)]
    values = {id(sides[0]): torch.tensor([0.1, 0.9]), id(sides[1]): torch.tensor([0.8, 0.1])}
    metric = dataclasses.replace(METRICS["rouge_l"], values=lambda given: values[id(given)])
    found, change = interval_of(metric, sides[0]), change_of(metric, *sides)
    assert (found.low, found.high) == (0, 1)
    assert (change.low, change.high) == (-1, 1)
    one = SimpleNamespace(pictures=SimpleNamespace(groups=torch.arange(1)))
    values[id(one)] = torch.tensor([0.5])
    assert interval_of(metric, one).high == float("inf")


def test_a_network_trained_on_photographs_is_asked_where_it_is_there(folders):
    judge, network = photographs.extractor(), photographs.load()
    found = test_set.evaluate(drawn(folders), (*extractors(answers=False), judge))
    assert found.extractors["photographs"] == photographs.NAME
    assert not by_name(found, "reference", photographs.NAME)
    pictures = {which: [Image.open(row["path"]) for row in kept(folders / which)] for which in ("reference", "base")}
    real, fake = (photographs.features(network, pictures[which]).double() for which in ("reference", "base"))
    size = real.square().mean().sqrt()
    base = by_name(found, "base", photographs.NAME)
    assert base["kid"].value == pytest.approx(kid(real / size, fake / size).value, rel=1e-5)
    own = [(fake[i] - real).norm(dim=1).argmin().item() == i for i in range(5)]
    assert base["own_nearest"].value == sum(own) / 5
    assert found.found("base", "kid") == by_name(found, "base", "pixels")["kid"]  # the first, where none is named
    assert found.found("base", "kid", photographs.NAME) == base["kid"]


def test_its_classes_are_those_of_the_whole_network(folders):
    """The Inception Score needs them: from the kept features they are what the network says of the picture."""
    network, pictures = photographs.load(), [Image.open(row["path"]) for row in kept(folders / "base")]
    values = torch.stack([
        torch.from_numpy(np.asarray(picture.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC), np.float32))
        for picture in pictures
    ])  # fmt: skip
    whole = network((values.permute(0, 3, 1, 2) / 255 - 0.498) / 0.502)
    judge = photographs.extractor()
    assert torch.allclose(judge.classify(judge.features(pictures)), whole, atol=1e-4)


@pytest.mark.skipif(not world.FONT.exists(), reason="needs fonts-noto-color-emoji")
@pytest.mark.parametrize(
    ("thing", "number"), [("umbrella", 879), ("pretzel", 932), ("penguin", 145), ("hourglass", 604)]
)
def test_it_names_what_imagenet_taught_it(thing, number):
    """Of a thousand classes the drawn thing is its first guess, in the features that distances are taken in."""
    network = photographs.load()
    concept = next(concept for concept in world.concepts() if concept.name == thing)
    picture = world.Scene(concept, 1, "large", "in the middle", "white").image()
    assert network._fc(photographs.features(network, [picture]))[0].argmax() == number


def test_it_sees_pixels_as_it_was_trained_to():
    class Network:
        seen: torch.Tensor

        def extract_features(self, pixels: torch.Tensor) -> torch.Tensor:
            self.seen = pixels
            return pixels

    network, pictures = Network(), [Image.new("RGB", (64, 32), colour) for colour in ("black", "white", "red")]
    found = photographs.features(network, pictures)
    assert network.seen.shape == (3, 3, 224, 224)
    low, high = -0.498 / 0.502, (1 - 0.498) / 0.502
    expected = torch.tensor([[low] * 3, [high] * 3, [high, low, low]])
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_numbers_are_those_of_the_formulas(folders):
    evaluation = test_set.evaluate(drawn(folders), extractors(answers=True))
    shown = {
        name: [Image.open(row["path"]) for row in kept(folders / name)] for name in ("reference", "base", "adapted")
    }
    features = {name: flattened(pictures) for name, pictures in shown.items()}
    texts = embedded(["x" * (i + 1) for i in range(5)])
    now, before = margins(features["adapted"], texts), margins(features["base"], texts)
    own = own_is_nearest(features["reference"], features["adapted"])
    expected = {
        "kid": kid(features["reference"], features["adapted"]),
        "own_nearest": share(int(own.sum()), 5),
        "top1": share(1, 5),
        "top5": share(3, 5),
        "clip_margin": mean_of(now),
    }
    found = {name: Interval(e.value, e.low, e.high, e.n) for name, e in by_name(evaluation, "adapted").items()}
    assert found == expected
    change = by_name(evaluation, "change")
    paired = paired_change(now, before)
    assert (change["clip_margin"].value, change["clip_margin"].low) == pytest.approx((paired.value, paired.low))
    whole = [kid(features["reference"], features[name]).value for name in ("adapted", "base")]
    assert change["kid"].value == pytest.approx(whole[0] - whole[1])
    without = torch.tensor([
        kid(*(features[name][torch.arange(5) != row] for name in ("reference", "adapted"))).value
        - kid(*(features[name][torch.arange(5) != row] for name in ("reference", "base"))).value
        for row in range(5)
    ])  # fmt: skip
    half = 2.77645 * (4 / 5 * (without - without.mean()).square().sum().item()) ** 0.5
    assert change["kid"].high - change["kid"].value == pytest.approx(half, rel=1e-3)


def counting(calls: list[int]) -> tuple[Extractor, ...]:
    def counted(pictures: list[Image.Image]) -> torch.Tensor:
        calls.append(len(pictures))
        return flattened(pictures)

    return (Extractor(kind="x", name="x", version="1", features=counted, captions=embedded),)


def test_what_was_seen_once_is_kept_by_content(folders, tmp_path):
    """Of the pictures and of the weights of what looks: another extractor looks anew, an equal picture is known."""
    calls: list[int] = []
    first = test_set.evaluate(drawn(folders), counting(calls), tmp_path / "cache")
    assert calls == [5, 5, 5]
    assert test_set.evaluate(drawn(folders), counting(calls), tmp_path / "cache") == first
    assert len(calls) == 3
    shutil.copy(folders / "base" / "0000.png", folders / "adapted" / "0001.png")
    Image.new("RGB", (4, 4), "red").save(folders / "adapted" / "0002.png")
    test_set.evaluate(drawn(folders), counting(calls), tmp_path / "cache")
    assert calls == [5, 5, 5, 1]
    other = tuple(dataclasses.replace(one, version="2") for one in counting(calls))
    test_set.evaluate(drawn(folders), other, tmp_path / "cache")
    assert sum(calls[4:]) == 14  # of fifteen pictures two are equal


def test_two_pictures_have_no_kid(tmp_path):
    for which in ("reference", "base", "adapted"):
        rows = [{"file": f"{i}.png", "prompt": "x" * (i + 1)} for i in range(2)]
        keep(tmp_path / which, [Image.new("RGB", (4, 4), (90 * i, 0, 9)) for i in range(2)], rows, drawn=False)
    found = test_set.evaluate(drawn(tmp_path, NAMES[:2]), extractors(answers=False))
    assert list(by_name(found, "adapted")) == ["own_nearest", "clip_margin"]


@pytest.fixture
def run_folder(trainer, small, tmp_path):
    """A finished run."""
    out = tmp_path / "out"
    ended = trainer(*small, "--validation_split", "0.5", "--output_dir", out)
    assert ended.code == 0, ended.output
    return out


def brightness(given: Compared) -> torch.Tensor:
    return flattened(given.pictures.pictures).mean(1)


def test_a_metric_that_is_added_to_the_table_is_in_the_file_on_the_page_and_on_the_card(
    run_folder, folders, monkeypatch
):
    """Nothing but the table and the metric's own function is touched."""
    row = Metric(
        label="Light in the picture", short="brightness", form="{:.2f}", better="higher", needs=frozenset(),
        values=brightness,
    )  # fmt: skip
    monkeypatch.setitem(METRICS, "brightness", row)
    for found in (extractors(answers=False), ()):
        evaluation = test_set.evaluate(drawn(folders), found)
        evaluation.write(run_folder)
        sets = json.loads((run_folder / results.FILE).read_text(encoding="utf-8"))["sets"]
        assert all(sets[which]["brightness"]["n"] == 5 for which in ("base", "adapted", "reference"))
        shown = evaluation.sets["adapted"]["brightness"].text("{:.2f}")
        assert results.read(run_folder) == evaluation
        text = page.write(run_folder).read_text(encoding="utf-8")
        assert "Light in the picture (brightness, higher is better)" in text
        assert shown in text
        text = card.write(run_folder, BASE, DATA, None).read_text(encoding="utf-8")
        cells = [
            cell.strip() for line in text.splitlines() if "Light in the picture" in line for cell in line.split("|")
        ]
        assert (cells[1], cells[3], cells[6]) == ("Light in the picture (brightness, higher is better)", shown, "5")


def test_a_metric_that_is_no_more_in_the_table_is_still_shown(folders, monkeypatch):
    evaluation = test_set.evaluate(drawn(folders), extractors(answers=False))
    monkeypatch.setattr(results, "METRICS", {name: metric for name, metric in METRICS.items() if name != "kid"})
    row = results.rows(evaluation)[-1]
    assert (row.label, row.n, row.extractor) == ("kid", 5, "pixels")
    assert row.adapted == by_name(evaluation, "adapted")["kid"].text("{:.4g}")


def test_only_the_metrics_that_are_asked_for_are_measured(folders):
    sets = {name: looking.pairs(folders / name, NAMES) for name in ("reference", "base")}
    found = looking.estimates(sets, extractors(answers=True), metrics={"top1": METRICS["top1"]})
    assert {name: [one.metric for one in some] for name, some in found.items()} == {
        "base": ["top1"],
        "reference": ["top1"],
    }


def test_a_single_example_survives_the_file(folders, tmp_path):
    """Its interval is infinite, a number that JSON does not have."""
    evaluation = test_set.evaluate(drawn(folders), extractors(answers=False))
    one = dataclasses.replace(by_name(evaluation, "base")["kid"], low=-float("inf"), high=float("inf"))
    evaluation = dataclasses.replace(evaluation, sets={"base": {"kid": one}})
    evaluation.write(tmp_path)
    assert results.read(tmp_path) == evaluation
    assert results.rows(evaluation)[0].base.endswith("(no interval)")
    (tmp_path / results.FILE).write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"evaluation\.json is damaged"):
        results.read(tmp_path)


def test_a_set_is_drawn_once_unless_its_weights_may_be_others(tmp_path, monkeypatch):
    calls: list[int] = []

    def draw(self: Sampler, requests: list[SampleRequest]) -> list[Image.Image]:
        calls.append(len(requests))
        return [Image.new("RGB", (8, 8)) for _ in requests]

    monkeypatch.setattr(Sampler, "draw", draw)
    sampler = object.__new__(Sampler)
    sampler.settings = SampleSettings(3.0, 2, Size.square(8))
    request = DrawSetRequest(
        folder=tmp_path / "set", requests=(SampleRequest("a", 1), SampleRequest("b", 2)), sampler=sampler,
        adapted=AdaptedModels({}), with_adapter=False,
    )  # fmt: skip
    assert draw_set(request) == draw_set(request) == tmp_path / "set"
    assert calls == [2]
    assert [(row["prompt"], row["seed"], row["guidance_scale"]) for row in kept(tmp_path / "set")] == [
        ("a", 1, 3.0),
        ("b", 2, 3.0),
    ]
    draw_set(dataclasses.replace(request, reuse=False))
    draw_set(dataclasses.replace(request, requests=request.requests[:1]))
    assert calls == [2, 2, 1]
