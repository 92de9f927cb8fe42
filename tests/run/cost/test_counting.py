"""Counting against what can be said beforehand."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.run.cost.counting import Counting, attention_of

pytestmark = pytest.mark.unit
KIB = 1024


def test_bytes_count_from_the_operation_that_makes_them_until_nobody_holds_them():
    weight = torch.empty(KIB, device="meta")
    with Counting([weight]) as counting:
        assert counting.live_bytes == 4 * KIB
        first = weight + 1
        view = first.view(32, 32)[2:]
        assert counting.live_bytes == 8 * KIB, "a view is no new memory"
        first = (first * 2).sum()
        assert counting.live_bytes == 8 * KIB + 4, "the view holds what was made first"
        del view
        assert counting.live_bytes == 4 * KIB + 4
        first.add_(1)
    assert (counting.live_bytes, counting.peak_bytes) == (4 * KIB + 4, 12 * KIB + 4)
    assert counting.num_kernels == 4, "views are none"


def test_what_autograd_saves_is_alive_until_the_backward_pass_is_through():
    weight = torch.empty(KIB, device="meta", requires_grad=True)
    with Counting([weight]) as counting:
        loss = (weight * 2).exp().sum()
        assert counting.live_bytes == 8 * KIB + 4, "the exponentials, which their derivative needs"
        loss.backward()
    assert counting.live_bytes == 8 * KIB + 4, "the gradient in their place"


def test_operations_of_products_and_attention():
    with torch.device("meta"):
        a, b = torch.empty(2, 3), torch.empty(3, 5)
        query, key = torch.empty(2, 4, 7, 8), torch.empty(2, 4, 9, 8)
    with Counting() as counting:
        _ = a @ b
    assert counting.num_flops == 2 * 2 * 3 * 5
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16), ("cuda", torch.float32)):
        for mask in (None, torch.ones(2, 1, 1, 9, dtype=torch.bool)):
            inputs = query.to(dtype), key.to(dtype), key.to(dtype)
            with attention_of(device), Counting() as counting:
                found = F.scaled_dot_product_attention(*inputs, attn_mask=mask)
            assert (found.shape, found.dtype) == (query.shape, dtype)
            assert counting.num_flops == 2 * (2 * 4 * 7 * 9 * 8) * 2
            assert counting.peak_bytes < found.nbytes + 2 * 4 * 64 * 4 + 2000, "no table of all pairs"


def test_attention_is_torchs_own_again_afterwards_and_on_numbers():
    usual, query = F.scaled_dot_product_attention, torch.rand(1, 1, 3, 8)
    with attention_of("cuda"):
        assert F.scaled_dot_product_attention is not usual
        assert torch.equal(F.scaled_dot_product_attention(query, query, query), usual(query, query, query))
    assert F.scaled_dot_product_attention is usual
