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


def test_of_few_weights_nobody_looks_for_files(monkeypatch):
    def never():
        raise AssertionError("looked for")

    monkeypatch.setattr(alignment, "_mapped_files", never)
    align([layer := layer_at(1)])
    assert layer.weight.data_ptr() % BYTES == 0


def resident(file):
    """Bytes of a mapped file that are this process's now."""
    lines = iter(Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines())
    for line in lines:
        if line.endswith(str(file)):
            return 1024 * int(next(words[1] for words in map(str.split, lines) if words[0] == "Rss:"))
    raise AssertionError(f"{file} is not mapped")


def test_the_file_of_weights_that_were_moved_is_let_go(tmp_path, monkeypatch):
    """Of which some may be aligned by chance; one that stayed would keep all pages in memory."""
    monkeypatch.setattr(alignment, "WORTH_FORGETTING", 2**20)
    file = tmp_path / "weights.safetensors"
    wanted = {f"weight {number:02d}": torch.randn(2**14 + 1) for number in range(17)}  # each begins four bytes later
    save_file(wanted, file)
    as_read = load_file(file)
    model = nn.ParameterDict({name: nn.Parameter(value, False) for name, value in as_read.items()})
    assert {weight.data_ptr() % BYTES for weight in model.values()} == set(range(0, BYTES, 4))

    def mapped():
        return str(file) in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")

    assert all(torch.equal(as_read[name], value) for name, value in wanted.items())
    assert resident(file) == pytest.approx(file.stat().st_size, rel=0.1)
    align([model])
    assert resident(file) < file.stat().st_size / 4, "each was let go as it was copied, long before the mapping goes"
    as_read.clear()
    assert not mapped()
    assert all(torch.equal(model[name], value) for name, value in wanted.items())


def test_pages_are_forgotten_only_where_the_file_has_them(tmp_path):
    """What was written to a mapping, or is no file's, would be lost, so it stays. The rest is read again when asked."""
    file, wanted = tmp_path / "weights.safetensors", torch.randn(2**20)
    save_file({"clean": wanted}, file)
    mapped = load_file(file)["clean"]
    assert torch.equal(mapped, wanted)
    assert resident(file) >= mapped.nbytes
    alignment._forget(mapped, alignment._mapped_files())
    assert resident(file) < mapped.nbytes / 10
    assert torch.equal(mapped, wanted)
    mapped[2**19] = 7.0  # far from the edges, whose pages stay anyway
    alignment._forget(mapped, alignment._mapped_files())
    assert mapped[2**19 - 1 : 2**19 + 1].tolist() == [wanted[2**19 - 1].item(), 7.0]
    copy = wanted.clone()
    alignment._forget(copy[1:-1], alignment._mapped_files())
    assert torch.equal(copy, wanted)
