"""Batches of prompt embeddings, of one length or of several."""

import pytest
import torch

from pipeline.conditioning import Conditioning, stack
from pipeline.geometry import Size

pytestmark = pytest.mark.unit


def row(length: int) -> dict[str, torch.Tensor]:
    return {"embeds": torch.full((length, 3), float(length)), "embeds_mask": torch.ones(length, dtype=torch.int64)}


def test_equal_lengths_are_stacked_whatever_the_family_does_with_others():
    for ragged in ("pad", "list"):
        found = stack([row(4), row(4)], ragged)
        assert found["embeds"].shape == (2, 4, 3)
        assert torch.equal(found.row(1)["embeds"], row(4)["embeds"])


def test_shorter_ones_are_padded_and_the_mask_says_where():
    found = stack([row(2), row(4)])
    assert found["embeds"].shape == (2, 4, 3)
    assert found["embeds_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert not found["embeds"][0, 2:].any()


def test_without_a_mask_nothing_is_padded():
    with pytest.raises(AssertionError, match="there is no mask"):
        stack([{"embeds": torch.ones(2, 3)}, {"embeds": torch.ones(4, 3)}])


def test_a_family_that_takes_lists_gets_lists():
    found = stack([row(2), row(4)], "list").to(torch.device("cpu"), torch.bfloat16)
    assert [value.shape[0] for value in found.tensors["embeds"]] == [2, 4]
    assert {value.dtype for value in found.tensors["embeds"]} == {torch.bfloat16}
    assert {value.dtype for value in found.tensors["embeds_mask"]} == {torch.int64}
    assert torch.equal(found.row(0)["embeds"], row(2)["embeds"].bfloat16())


def test_joined_conditions_keep_both():
    found = Conditioning({"a": torch.zeros(1, 2)}).joined(Conditioning({"b": torch.ones(1, 2)}))
    assert set(found.tensors) == {"a", "b"}


def test_a_size_reads_width_first():
    assert (str(Size(832, 1216)), Size(832, 1216).area, Size.square(64)) == ("832 x 1216", 1_011_712, Size(64, 64))
