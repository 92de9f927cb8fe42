"""Weights that lie anywhere in memory, and what a product with a single row makes of it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.families import alignment
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


def test_the_file_of_weights_that_were_moved_is_let_go(tmp_path):
    """Of which some may be aligned by chance; one that stayed would keep all pages in memory."""
    names, file = ("first", "second", "third"), tmp_path / "weights.safetensors"
    wanted = {name: torch.randn(2**18 + number) for number, name in enumerate(names)}
    save_file(wanted, file)
    model = nn.ParameterDict({name: nn.Parameter(value, False) for name, value in load_file(file).items()})
    assert len({weight.data_ptr() % BYTES for weight in model.values()}) > 1

    def mapped():
        return str(file) in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")

    assert mapped()
    align([model])
    assert not mapped()
    assert all(torch.equal(model[name], value) for name, value in wanted.items())


def test_what_is_paged_out_stays_what_it_is():
    tensor = torch.randn(2**20)
    copy = tensor.clone()
    alignment._page_out(tensor[1:-1])
    assert torch.equal(tensor, copy)
