import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from pipeline.evaluation.metrics.distances import kid, polynomial, scaled
from pipeline.evaluation.metrics.neighbours import own_is_nearest
from pipeline.evaluation.statistics import share

pytestmark = pytest.mark.reference


def drawn(seed: int, n: int, dimensions: int, shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    """True and drawn features that share what the caption says: one part of each row is the same on both sides."""
    generator = torch.Generator().manual_seed(seed)
    said, real, fake = (torch.randn(n, dimensions, generator=generator).double() for _ in range(3))
    return said + 0.5 * real, said + 0.5 * fake + shift


def test_kid_is_torchmetrics_kid_without_the_terms_of_each_pair():
    real, fake = drawn(0, 60, 16, 0.3)
    usual = poly_mmd(real, fake, 3, None, 1.0).item()
    every = polynomial(real, fake)
    without = (every.sum() - every.trace()) / (60 * 59)
    assert kid(real, fake).value == pytest.approx(usual + 2 * (every.mean() - without).item(), rel=1e-9)


def test_the_interval_covers_nothing_where_the_sets_are_alike_and_separates_those_that_are_not():
    found = [kid(*drawn(seed, 80, 8, 0.0)) for seed in range(60)]
    assert sum(one.low <= 0 <= one.high for one in found) >= 52
    values = torch.tensor([one.value for one in found])
    assert abs(values.mean()) < 3 * values.std() / len(values) ** 0.5  # unbiased, whatever the captions share
    usual = torch.tensor([poly_mmd(*drawn(seed, 80, 8, 0.0), 3, None, 1.0) for seed in range(60)])
    assert usual.mean() < -3 * usual.std() / len(usual) ** 0.5  # as usually computed it is not
    assert kid(*drawn(99, 80, 8, 1.0)).low > 0


def test_the_jackknife_agrees_with_many_repetitions():
    found = [kid(*drawn(seed, 50, 4, 0.7)) for seed in range(150)]
    halves = torch.tensor([(one.high - one.low) / 2 / 1.959964 for one in found])
    assert halves.mean().item() == pytest.approx(torch.tensor([one.value for one in found]).std().item(), rel=0.25)


SHARES = [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)]


@pytest.mark.parametrize(("hits", "n", "low", "high"), SHARES)
def test_shares_have_wilsons_interval(hits, n, low, high):
    found = share(hits, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


def test_the_nearest_is_sought_among_the_true_rows():
    """Both made rows lie at the second true one: the first of them misses its own."""
    real, made = torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([[0.9], [1.05], [8.0]])
    assert own_is_nearest(real, made).tolist() == [0, 1, 1]
    twice = torch.tensor([0, 1, 1])
    assert own_is_nearest(real, made, torch.arange(3), twice).tolist() == [0, 1, 0]


def test_a_scale_of_all_features_does_not_move_the_scaled_distance():
    generator = torch.Generator().manual_seed(3)
    real, made = torch.randn(20, 6, generator=generator), torch.randn(20, 6, generator=generator) + 0.3
    once = kid(*scaled(real, made))
    assert kid(*scaled(40 * real, 40 * made)).value == pytest.approx(once.value, rel=1e-6)
    size = real.double().square().mean().sqrt()
    assert once.value == pytest.approx(kid(real / size, made / size).value, rel=1e-6)
