"""Every metric against another implementation (golden/make.py) and against what is known in closed form."""

import json
import math
from pathlib import Path

import pytest
import torch

from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.metrics import adherence, distances, diversity, neighbours
from pipeline.evaluation.metrics.compared import Compared, Seen
from pipeline.evaluation.metrics.measure import interval_of
from pipeline.evaluation.metrics.table import METRICS
from pipeline.evaluation.statistics import folds_of, jackknifed, mean_of, means_by, paired_change

pytestmark = pytest.mark.reference
GOLDEN = json.loads((Path(__file__).parent / "golden" / "metrics.json").read_text(encoding="utf-8"))
PAIRS = torch.arange(120)


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def features() -> tuple[torch.Tensor, torch.Tensor]:
    """Those of golden/make.py."""
    generator = torch.Generator().manual_seed(7)
    real, fake = (torch.randn(120, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    return real, 1.3 * fake + 0.4


def test_the_frechet_distance_is_torch_fidelitys(features):
    assert distances.frechet(*features) == pytest.approx(GOLDEN["fid"], rel=1e-6)


@pytest.mark.parametrize(("n", "m", "d"), [(400, 300, 12), (40, 30, 64), (40, 300, 64)])
def test_the_frechet_distance_is_that_of_the_two_gaussians(n, m, d):
    """By the eigenvalues of the product of the covariances, with more rows than columns and with fewer."""
    x, y = normal(n, d), 1.5 * normal(m, d, 1) + 0.5
    product = torch.cov(x.T) @ torch.cov(y.T)
    root = torch.linalg.eigvals(product).real.clamp(min=0).sqrt().sum()
    apart = (x.mean(0) - y.mean(0)).square().sum()
    expected = apart + torch.cov(x.T).trace() + torch.cov(y.T).trace() - 2 * root
    assert distances.frechet(x, y) == pytest.approx(expected.item(), rel=1e-4 if n < d else 1e-9)
    assert distances.frechet(x, x) == pytest.approx(0.0, abs=1e-9)
    turned, _ = torch.linalg.qr(normal(d, d, 2))
    assert distances.frechet(x @ turned, y @ turned) == pytest.approx(distances.frechet(x, y), rel=1e-9)


def test_of_many_rows_it_is_the_closed_form():
    """|2|^2 for each of 16 means and (1.5 - 1)^2 for each of 16 spreads."""
    x, y = normal(40_000, 16), 1.5 * normal(40_000, 16, 1) + 2
    assert distances.frechet(x, y) == pytest.approx(16 * (4 + 0.25), rel=0.01)


def test_without_end_the_bias_of_the_frechet_distance_is_gone():
    """Of equal distributions it is far above 0 for 200 rows; where it would end, it is a small part of that."""
    few = [distances.frechet(normal(200, 16, seed), normal(200, 16, seed + 50)) for seed in range(8)]
    ended = [distances.frechet_at_infinity(normal(200, 16, seed), normal(200, 16, seed + 50)) for seed in range(8)]
    assert min(few) > 0.5
    assert abs(sum(ended) / 8) < 0.25 * sum(few) / 8


def test_kid_and_cmmd_are_torch_fidelitys_mmd(features):
    real, fake = features
    assert distances.kid(real, fake).value == pytest.approx(GOLDEN["kid of pairs"], rel=1e-6)
    strangers = distances.kid(real, fake, PAIRS, PAIRS + 120)
    assert strangers.value == pytest.approx(GOLDEN["kid of strangers"], rel=1e-6)
    found = distances.mmd(real, fake, PAIRS, PAIRS, distances.gaussian)
    assert found.value == pytest.approx(GOLDEN["mmd of pairs, gaussian"], rel=1e-6)


def test_cmmd_is_all_but_the_distance_of_mean_embeddings():
    """Its trap: of unit vectors with sigma 10 the kernel is all but linear, 1000 / 100 |difference of the means|^2."""
    x, y = (torch.nn.functional.normalize(rows, dim=1) for rows in (normal(300, 24), normal(300, 24, 1) + 0.3))
    inner = [(a @ b.T).fill_diagonal_(0).sum() / (300 * 299) for a, b in ((x, x), (y, y), (x, y))]
    linear = 10 * (inner[0] + inner[1] - 2 * inner[2]).item()
    groups = torch.arange(300)
    assert distances.cmmd(5 * x, 0.1 * y, groups, groups).value == pytest.approx(linear, rel=0.02)


@pytest.mark.parametrize("is_turned", [False, True])
def test_leaving_out_captions_at_once_is_leaving_them_out_one_by_one(is_turned):
    """Three pictures to a caption on one side, and some of captions of their own on the other."""
    real, fake = normal(14, 5), normal(18, 5, 1) + 0.5
    real_groups = torch.cat([torch.arange(6), torch.arange(100, 108)])
    fake_groups = torch.arange(6).repeat_interleave(3)
    if is_turned:
        real, fake, real_groups, fake_groups = fake, real, fake_groups, real_groups
    found = distances.kid(real, fake, real_groups, fake_groups)

    def value(left_out: int | None) -> float:
        kept = [groups != (-1 if left_out is None else left_out) for groups in (real_groups, fake_groups)]
        x, y, of_x, of_y = real[kept[0]], fake[kept[1]], real_groups[kept[0]], fake_groups[kept[1]]
        means = []
        for a, b, of_a, of_b in ((x, x, of_x, of_x), (y, y, of_y, of_y), (x, y, of_x, of_y)):
            pairs = [
                float(distances.polynomial(a[i : i + 1], b[j : j + 1]))
                for i in range(len(a))
                for j in range(len(b))
                if of_a[i] != of_b[j]
            ]
            means.append(sum(pairs) / len(pairs))
        return means[0] + means[1] - 2 * means[2]

    assert found.value == pytest.approx(value(None), rel=1e-9)
    assert found.n == len(fake)
    variance = 0.0
    for family in (range(6), range(100, 108)):
        values = torch.tensor([value(group) for group in family], dtype=torch.float64)
        variance += (len(values) - 1) / len(values) * (values - values.mean()).square().sum().item()
    assert found.high - found.value == pytest.approx(2.57058 * variance**0.5, rel=1e-3)  # Student's for 6 - 1


def test_precision_recall_density_and_coverage_are_prdcs(features):
    real, fake = features
    found = {name: getattr(neighbours, name)(real, fake) for name in GOLDEN["prdc"]}
    assert found == pytest.approx(GOLDEN["prdc"], rel=1e-6)
    assert found["precision"] == pytest.approx(GOLDEN["precision"], rel=1e-6)
    assert found["recall"] == pytest.approx(GOLDEN["recall"], rel=1e-6)


def test_what_falls_together_in_the_middle_is_precise_dense_and_covers_nothing():
    real = normal(300, 4)
    fake = real.mean(0) + 1e-6 * normal(300, 4, 1)
    found = {name: getattr(neighbours, name)(real, fake) for name in ("precision", "recall", "density", "coverage")}
    assert found["precision"] == 1
    assert found["recall"] == 0
    assert found["density"] > 1
    assert found["coverage"] < 0.1
    assert [getattr(neighbours, name)(real, real) for name in found] == [1, 1, pytest.approx(1.2), 1]
    second = neighbours.coverage(normal(3000, 4, 2), normal(3000, 4, 3))
    assert second == pytest.approx(1 - 2**-5, abs=0.02)  # Naeem et al. 2020, eq. 8


def test_vendi_counts_what_is_unlike(features):
    assert diversity.vendi(features[1]) == pytest.approx(GOLDEN["vendi"], rel=1e-6)
    assert diversity.vendi(torch.ones(7, 3)) == pytest.approx(1)
    assert diversity.vendi(torch.eye(9)) == pytest.approx(9)
    assert diversity.vendi(torch.eye(9).repeat(2, 1)) == pytest.approx(9)


def test_the_pictures_of_a_caption_are_compared_with_each_other_alone():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = diversity.within_group(rows, torch.tensor([0, 0, 1, 1, 2]))
    assert found[:4].tolist() == pytest.approx([1, 1, 0, 0])
    assert math.isnan(found[4])


def test_the_inception_score_is_torch_fidelitys(features):
    assert diversity.inception(features[1]) == pytest.approx(GOLDEN["inception score"], rel=1e-6)
    assert diversity.inception(100 * torch.eye(10)) == pytest.approx(10)
    assert diversity.inception(torch.ones(10, 5)) == pytest.approx(1)


def test_the_clip_score_is_a_hundred_times_the_cosine():
    images, captions = normal(6, 8), normal(6, 8, 1)
    cosine = torch.nn.functional.cosine_similarity(images, captions)
    assert torch.allclose(adherence.clip_score(images, captions), 100 * cosine.clamp(min=0))
    assert torch.allclose(adherence.clip_score(images, images), torch.full((6,), 100.0, dtype=torch.float64))


def test_r_precision_asks_for_the_own_caption_among_a_hundred():
    captions = torch.eye(150, dtype=torch.float64)
    assert adherence.r_precision(captions, captions).mean() == 1
    assert adherence.r_precision(captions.roll(1, 0), captions).mean() == 0  # nearest to the caption before
    rivals = []
    for other in range(1, 150):  # a picture of the first that is nearer to another
        far = captions.clone()
        far[0] = captions[0] + 2 * captions[other]
        if adherence.r_precision(far, captions)[0] == 0:
            rivals.append(other)
    assert len(rivals) == 99
    assert rivals != list(range(1, 100))


def test_which_captions_are_its_rivals_does_not_depend_on_the_order_of_the_set():
    """Three kinds of 60 captions; pictures of the first kind are all nearest to some caption of the second."""
    generator = torch.Generator().manual_seed(0)
    captions = torch.randn(180, 64, generator=generator)
    images = captions.clone()
    images[:60] += 1.5 * captions[60:120]
    found = adherence.r_precision(images, captions)
    for blocks in ((0, 2, 1), (2, 1, 0), (1, 0, 2)):
        order = torch.cat([torch.arange(60) + 60 * block for block in blocks])
        assert torch.equal(adherence.r_precision(images[order], captions[order]), found[order])
    assert 0.1 < found[:60].mean() < 0.9  # some meet theirs


def test_rouge_l_and_bleu_are_those_of_the_papers():
    assert adherence.rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(0.75)
    assert adherence.rouge_l("The gunman, police!", "police the gunman") == pytest.approx(2 * 2 / 6)
    assert adherence.rouge_l("", "a") == 0
    same = ["the cat is on the mat", "a dog runs after two balls"]
    assert adherence.bleu(same, same) == pytest.approx(100)
    # Of five words against six the precisions are 4/5, 3/4, 2/3 and 1/2, times exp(1 - 6/5) for being short.
    expected = 100 * math.exp(1 - 6 / 5) * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert adherence.bleu(["the cat is on a"], ["The cat is on the mat"]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("said", "wanted", "expected"),
    [("OPEN", "open", 1.0), ("pen", "open", 0.75), ("", "open", 0.0), ("open late", "open", 4 / 9), ("", "", 1.0)],
)
def test_what_is_written_counts_letter_by_letter(said, wanted, expected):
    assert adherence.written(said, wanted) == pytest.approx(expected)


def test_only_double_quotes_ask_for_words():
    assert adherence.quoted('a sign "open late" and “closed” at night') == "open late closed"
    assert adherence.quoted("a dog's bone") is None


def test_the_jackknife_of_a_mean_is_students_interval():
    values = normal(20, 1)[:, 0]
    found = jackknifed(
        values.mean().item(), 20, [folds_of(torch.arange(20))],
        lambda out: values[~torch.isin(torch.arange(20), out)].mean().item(),
    )  # fmt: skip
    expected = mean_of(values)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert jackknifed(1.0, 1, [folds_of(torch.tensor([3]))], lambda out: 0.0).high == math.inf


def test_a_reference_of_strangers_adds_its_own_chance():
    """The interval of a value of sets has the variance of leaving out pictures, and that of leaving out references."""
    judge = Extractor(kind="x", name="x", version="", features=lambda pictures: None)
    sides = {
        name: Seen(groups=torch.arange(n) + first, prompts=("a",) * n, files=("a",) * n, features=normal(n, 4, first))
        for name, n, first in (("pictures", 15, 0), ("reference", 20, 50))
    }
    given = Compared(**sides, extractor=judge)
    found = interval_of(METRICS["density"], given)

    def variance(groups: torch.Tensor) -> float:
        values = torch.tensor([METRICS["density"].value(given.without(one[None])) for one in groups])
        return (len(values) - 1) / len(values) * (values - values.mean()).square().sum().item()

    half = 2.14479 * (variance(torch.arange(15)) + variance(torch.arange(20) + 50)) ** 0.5
    assert found.high - found.value == pytest.approx(half, rel=1e-3)


def test_folds_hold_whole_captions_each_once():
    groups = torch.arange(50).repeat_interleave(2)
    folds = folds_of(groups)
    assert len(folds) == 20
    assert sorted(torch.cat(folds).tolist()) == list(range(50))
    assert {len(fold) for fold in folds} == {2, 3}


def test_pictures_of_one_caption_count_once():
    groups = torch.tensor([5, 5, 2, 9, 9, 9])
    values = torch.tensor([1.0, 3.0, 7.0, 0.0, 3.0, 6.0])
    assert means_by(values, groups).tolist() == [7.0, 2.0, 3.0]
    twice = paired_change(means_by(values.repeat(4), groups.repeat(4)), torch.zeros(3))
    assert twice == paired_change(means_by(values, groups), torch.zeros(3))
