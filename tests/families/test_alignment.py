"""Weights that lie anywhere in memory, and what a product with a single row makes of it."""

import pytest
import torch
from torch import nn

from pipeline.families.alignment import BYTES, align

pytestmark = pytest.mark.unit


def layer_at(offset: int) -> nn.Linear:
    """Always the same weights, some numbers behind where memory is aligned."""
    layer = nn.Linear(64, 64, bias=False)
    layer.weight.data = torch.empty(64 * 64 + offset)[offset:].view(64, 64)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    return layer


def test_equal_weights_give_equal_bits_wherever_they_lay():
    row = torch.randn(1, 64, generator=torch.Generator().manual_seed(1))
    aligned, *others = (layer_at(offset) for offset in range(4))
    place = aligned.weight.data_ptr()
    assert all(other.weight.data_ptr() % BYTES for other in others)
    align([aligned, *others])
    assert aligned.weight.data_ptr() == place  # no copy
    assert not any(other.weight.data_ptr() % BYTES for other in others)
    assert all(torch.equal(other(row), aligned(row)) for other in others)
