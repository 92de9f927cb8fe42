import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from pipeline.evaluation.estimates import kid, share

pytestmark = pytest.mark.reference


def test_kid_is_torchmetrics_kid():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(60, 16, generator=generator).double()
    fake = torch.randn(60, 16, generator=generator).double() + 0.3
    assert kid(real, fake, "x").value == pytest.approx(poly_mmd(real, fake, 3, None, 1.0).item(), rel=1e-9)


def test_the_interval_covers_nothing_where_the_sets_are_alike_and_separates_those_that_are_not():
    covered = 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        found = kid(torch.randn(80, 8, generator=generator), torch.randn(80, 8, generator=generator), "x")
        covered += found.low <= 0 <= found.high
    assert covered >= 52
    generator = torch.Generator().manual_seed(99)
    far = kid(torch.randn(80, 8, generator=generator), torch.randn(80, 8, generator=generator) + 1, "x")
    assert far.low > 0


def test_the_jackknife_agrees_with_many_repetitions():
    values, halves = [], []
    for seed in range(150):
        generator = torch.Generator().manual_seed(seed)
        found = kid(torch.randn(50, 4, generator=generator), torch.randn(50, 4, generator=generator) + 0.7, "x")
        values.append(found.value)
        halves.append((found.high - found.low) / 2 / 1.959964)
    assert torch.tensor(halves).mean().item() == pytest.approx(torch.tensor(values).std().item(), rel=0.25)


SHARES = [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)]


@pytest.mark.parametrize(("hits", "n", "low", "high"), SHARES)
def test_shares_have_wilsons_interval(hits, n, low, high):
    found = share("x", hits, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
