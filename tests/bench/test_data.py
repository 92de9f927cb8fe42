"""The benchmark of datasets measures what it says, each part in a process of its own."""

import pytest

from pipeline.bench import data, data_table

pytestmark = pytest.mark.unit


def test_every_part_is_measured_and_told():
    found = data.compare((24,))
    parts = found[24]
    assert list(parts) == list(data.PARTS)
    assert parts["first"].count == parts["again"].count == 24
    assert parts["cache"].count == 2  # a shard of latents and one of embeddings
    assert parts["loader"].count > 10
    page = data_table.page(found)
    assert "| pictures | 24 |" in page
    assert f"{parts['first'].seconds:.2f} s" in page
