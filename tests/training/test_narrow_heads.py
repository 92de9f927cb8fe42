"""Narrow heads on a CPU: the same numbers from a kernel that is twice as quick."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.run import build
from pipeline.run.encode import encode
from pipeline.training import loop, narrow_heads
from tests.conftest import prepared, replaced

pytestmark = pytest.mark.unit
CPU = torch.device("cpu")
KEY_OF = {  # which argument of a kernel the keys are
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: 1,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: 2,
}


class Widths(TorchDispatchMode):
    """The heads' widths that torch's kernel was asked for, with the number of keys."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in KEY_OF:
            key = args[KEY_OF[function.overloadpacket]]
            self.seen.add((key.shape[-1], key.shape[-2]))
        return function(*args, **(kwargs or {}))


def attended(width: int, keys: int, dtype=torch.float64, **options):
    """What attention makes of random tensors, and its gradients."""
    generator = torch.Generator().manual_seed(width)
    shapes = ((2, 3, 40, width), (2, 3, keys, width), (2, 3, keys, width))
    tensors = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    found = F.scaled_dot_product_attention(*tensors, **options)
    found.square().sum().backward()
    return [found.detach(), *(tensor.grad for tensor in tensors)]


@pytest.mark.parametrize("width", [3, 8, 11])
@pytest.mark.parametrize("options", [{}, {"scale": 0.7}, {"attn_mask": torch.arange(300).remainder(3).eq(0)[None, :]}])
def test_zeros_beside_a_head_change_neither_results_nor_gradients(width, options):
    plain = attended(width, 300, **options)
    with narrow_heads.padded(CPU), Widths() as widths:
        found = attended(width, 300, **options)
    assert widths.seen == {(16, 300)}
    for ours, theirs in zip(found, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("width", "keys"), [(12, 300), (40, 300), (8, 255)])
def test_wider_heads_and_short_ones_are_left_alone_to_the_bit(width, keys):
    plain = attended(width, keys, torch.float32)
    with narrow_heads.padded(CPU), Widths() as widths:
        found = attended(width, keys, torch.float32)
    assert widths.seen == {(width, keys)}
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, plain, strict=True))


def test_elsewhere_and_afterwards_attention_is_torchs_own():
    usual = F.scaled_dot_product_attention
    with narrow_heads.padded(torch.device("meta")):
        assert F.scaled_dot_product_attention is usual
    with narrow_heads.padded(CPU):
        first = F.scaled_dot_product_attention
    assert first is not usual
    with narrow_heads.padded(CPU):
        assert F.scaled_dot_product_attention is first, "compiled blocks would be compiled anew in each step"
    with pytest.raises(RuntimeError, match="size"), narrow_heads.padded(CPU):
        F.scaled_dot_product_attention(torch.ones(1, 1, 2, 3), torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4))
    assert F.scaled_dot_product_attention is usual


def test_a_step_learns_with_wide_heads_and_a_drawing_has_the_models_own(small, tmp_path):
    context = prepared(replaced(small, resolution=128), tmp_path / "out")
    encode(context)
    models = build.load_models(context)
    task = build.build_task(context, models, build.build_state(context, models))
    batch = next(loop.micro_batches(context.engine, task, 0))
    inputs = task.method.inputs(batch, context.engine.device)
    with Widths() as learning:
        loss = task.method.losses(inputs).sum()
        loss.backward()
    with Widths() as plain:
        again = task.method.objective.at(
            task.method.denoiser, inputs, inputs.t, inputs.conditioning, inputs.beside
        ).sum()
    of_itself = {width for width, keys in plain.seen if keys >= narrow_heads.LONG}
    assert of_itself, "the miniature has long sequences"
    assert max(of_itself) < narrow_heads.NARROW
    assert {width for width, keys in learning.seen if keys >= narrow_heads.LONG} == {narrow_heads.PADDED}
    assert loss.item() == pytest.approx(again.item(), abs=1e-5)
