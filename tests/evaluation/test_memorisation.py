"""The figures of memorisation, against closed forms and on drawings that are copies, or are none."""

import dataclasses
import itertools
import math

import pytest
import torch

from pipeline.commands.memorisation import Answers, compared
from pipeline.data.manifest import Example
from pipeline.data.options import DataOptions
from pipeline.data.rows import FileSource
from pipeline.errors import CheckpointError
from pipeline.evaluation import memorisation
from pipeline.evaluation.memorisation import Memorisation, auc, ratio
from pipeline.evaluation.metrics.compared import Seen
from pipeline.evaluation.statistics import Interval, share
from pipeline.geometry import Size

pytestmark = pytest.mark.unit


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    assert auc(torch.tensor([3.0, 1.0]), torch.tensor([0.0, 2.0, 1.0])).value == pytest.approx((3 + 1.5) / 6)
    apart = auc(torch.arange(20.0) + 50, torch.arange(30.0))
    assert (apart.value, apart.n) == (1, 20)
    assert (apart.low, apart.high) == (share(20, 20).low, 1)  # of no error an interval has a width, too
    assert auc(torch.arange(30.0), torch.arange(20.0) + 50).high == share(0, 20).high


def test_its_interval_holds_what_is_true_as_often_as_it_says():
    """Of two normal distributions one apart the area is Phi(1 / sqrt 2)."""
    true = 0.5 * (1 + math.erf(0.5))
    found = [auc(normal(60, seed=seed) + 1, normal(60, seed=seed + 1000)) for seed in range(200)]
    assert 0.9 <= sum(one.low <= true <= one.high for one in found) / 200 <= 0.985
    chance = [auc(normal(60, seed=seed), normal(60, seed=seed + 1000)) for seed in range(200)]
    assert 0.9 <= sum(one.low <= 0.5 <= one.high for one in chance) / 200 <= 0.985
    spread = torch.tensor([one.value for one in found]).std().item()
    half = sum(one.high - one.low for one in found) / 400
    assert half == pytest.approx(1.96 * spread, rel=0.15)


def test_the_share_of_means_has_an_interval_of_both_sides():
    found = [ratio(normal(50, seed=seed).abs(), 2 * normal(70, seed=seed + 500).abs()) for seed in range(150)]
    assert 0.88 <= sum(one.low <= 0.5 <= one.high for one in found) / 150 <= 0.99
    assert ratio(torch.full((9,), 3.0), torch.full((5,), 4.0)).value == pytest.approx(0.75)


def test_of_what_is_drawn_from_a_caption_the_nearest_counts():
    true = torch.eye(3)
    drawn = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]])
    places, distances = memorisation.nearest(drawn, torch.tensor([0, 0, 1, 2]), true, torch.arange(3))
    assert places.tolist() == [1, 2, 3]
    assert distances.tolist() == pytest.approx([1 - 0.5**0.5, 0, 2])
    places, distances = memorisation.nearest(drawn, torch.tensor([0, 0, 0, 2]), true, torch.tensor([0, 0, 2]))
    assert places.tolist() == [1, 0, 3]  # of equal captions, any drawing


def test_sameness_is_the_mean_cosine_within_a_caption():
    drawn = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    found = memorisation.sameness(drawn, torch.tensor([0, 0, 0, 1, 1]), 2)
    assert found.tolist() == pytest.approx([1 / 3, 1])


@pytest.mark.parametrize("size", [1, 4, 7])
def test_the_largest_clique_is_found_in_any_graph(size):
    """Against every subset."""
    for seed in range(12):
        near = torch.rand(size, size, generator=torch.Generator().manual_seed(seed)) < 0.6
        near = near.triu(1) | near.triu(1).T
        subsets = [group for k in range(size + 1) for group in itertools.combinations(range(size), k)]
        cliques = [group for group in subsets if all(near[a, b] for a, b in itertools.combinations(group, 2))]
        found = memorisation.largest_clique(near)
        assert found in cliques
        assert len(found) == max(map(len, cliques))


def test_drawings_that_fall_together_are_found_though_few_captions_give_them():
    """Six of forty captions give one picture in three of four drawings: too few for the mean to tell."""
    true, noise = normal(80, 16, seed=0), normal(320, 16, seed=1)
    drawn = (true.repeat_interleave(4, 0) + noise).view(80, 4, 16)
    drawn[:6, 1:] = true[:6, None] + 0.01 * noise.view(80, 4, 16)[:6, 1:]
    examples = [example(number) for number in range(80)]
    found = looked(normal(80, seed=2), drawn.view(320, 16), true, examples)
    cliques = found.cliques
    assert (cliques.least, cliques.of, cliques.members, cliques.others) == (3, 4, 6, 0)
    assert not found.alarms
    shown = {one.caption: one for one in cliques.shown}
    assert set(shown) == {f"picture {number}" for number in range(6)}
    assert shown["picture 2"].true == "reference/000002.png"
    assert set(shown["picture 2"].drawn) >= {f"adapted/{number:06d}.png" for number in (9, 10, 11)}
    usual = looked(normal(80, seed=2), (true.repeat_interleave(4, 0) + noise), true, examples)
    assert usual.cliques.members <= 2
    assert looked(normal(80, seed=2), drawn[:, :2].reshape(160, 16), true, examples).left_out == (
        "cliques: --num_images 3 draws enough of each caption",
    )


def example(number: int) -> Example:
    return Example(
        id=str(number), image_id=str(number), name=f"{number}.png", source=FileSource(f"{number}.png"),
        captions=(f"picture {number}",), size=Size.square(8), options=DataOptions(),
    )  # fmt: skip


def looked_at(copied: int, *, seed: int = 0) -> Memorisation:
    """Forty pictures of each side, two drawings each; so many of the training pictures were drawn as they are."""
    true, noise = normal(80, 16, seed=seed), normal(160, 16, seed=seed + 1)
    groups = torch.arange(80).repeat_interleave(2)
    drawn = true[groups] + 0.8 * noise
    drawn[: 2 * copied] = true[groups[: 2 * copied]]
    gains = normal(80, seed=seed + 2)
    gains[:copied] += 5
    return looked(gains, drawn, true, [example(number) for number in range(80)])


def looked(gains: torch.Tensor, drawn: torch.Tensor, true: torch.Tensor, examples: list[Example]) -> Memorisation:
    times = len(drawn) // len(true)
    texts = [one.caption for one in examples]
    sets = [
        Seen(groups=torch.arange(len(rows)) // count, prompts=tuple(prompts), files=("x",) * len(rows), features=rows)
        for rows, prompts, count in ((drawn, [text for text in texts for _ in range(times)], times), (true, texts, 1))
    ]
    return compared(Answers(gains, gains), *sets, examples=examples, judge="x", adapter="a")


def test_copies_are_found_whichever_of_equal_captions_they_were_drawn_from():
    """DreamBooth: one caption for all, and each drawing is some training picture, none of a certain one."""
    true = normal(40, 16, seed=0)
    drawn = true[:20].roll(7, 0).repeat(2, 1)
    same = [dataclasses.replace(example(number), captions=("a photo of sks dog",)) for number in range(40)]
    found = looked(normal(40, seed=1), drawn, true, same)
    assert found.by_drawing.value == 1
    assert (found.alarms, found.by_sameness, found.cliques) == (("by_drawing",), None, None)
    assert found.left_out == ("by_sameness and cliques: several pictures share a caption",)
    assert found.num_copies == 20
    for copy in found.copies:
        assert torch.equal(drawn[int(copy.drawn[-10:-4])], true[int(copy.true[-10:-4])])


def test_copies_alarm_and_are_shown_with_their_pictures():
    found = looked_at(38)
    assert found.alarms == ("by_loss", "by_drawing", "by_sameness", "by_noise")
    assert found.words().startswith("It has learnt training pictures by heart: they are told from others by their ")
    assert found.num_copies >= 38
    assert len(found.copies) == memorisation.MOST_COPIES
    for copy in found.copies:
        number = int(copy.name.removesuffix(".png"))
        assert copy.caption == f"picture {number}"
        assert copy.true == f"reference/{number:06d}.png"
        assert copy.drawn in (f"adapted/{2 * number:06d}.png", f"adapted/{2 * number + 1:06d}.png")
        assert copy.distance < 0.1 * copy.usual
    assert found.distance.high < 0.3


def test_where_nothing_was_learnt_by_heart_nothing_alarms():
    found = [looked_at(0, seed=10 * seed) for seed in range(40)]
    assert not any(one.alarms for one in found)
    inside = [figure.low <= 0.5 <= figure.high for one in found for figure in one.figures.values()]
    assert sum(inside) / len(inside) > 0.85
    number = sum(one.num_copies for one in found) / len(found)
    assert number == pytest.approx(found[0].chance, rel=0.4)


def test_the_file_says_what_was_found(tmp_path):
    found = looked_at(3)
    found.write(tmp_path)
    assert memorisation.read(tmp_path) == found
    (tmp_path / memorisation.FILE).write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="is damaged"):
        memorisation.read(tmp_path)
    (tmp_path / memorisation.FILE).unlink()
    assert memorisation.read(tmp_path) is None


def test_a_trace_is_no_alarm():
    trace = looked_at(0)
    clear = Interval(0.6, 0.55, 0.65, 40)
    unclear = Interval(0.5, 0.4, 0.6, 40)
    parts = {"by_drawing": unclear, "by_sameness": None, "n": 40, "extractor": "x", "adapter": "a", "distance": unclear}
    found = Memorisation(by_loss=clear, num_copies=0, copies=(), **parts)
    assert (found.alarms, found.traces) == ((), ("by_loss",))
    assert "leave a trace" in found.words()
    words = Memorisation(by_loss=unclear, num_copies=0, copies=(), **parts).words()
    assert "cannot be told from others by what it does. With 40 of each, anything up to 60% of the time" in words
    assert set(trace.figures) == {"by_loss", "by_drawing", "by_sameness", "by_noise"}
