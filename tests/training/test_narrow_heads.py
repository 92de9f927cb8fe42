"""Narrow heads on a CPU: the same numbers from a kernel that is twice as quick."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.run import build
from pipeline.run.encode import encode
from pipeline.training import loop, narrow_heads
from pipeline.training.guards import GradientGuard
from pipeline.training.step import optimizer_step
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


@pytest.mark.parametrize("recomputed", [(), ("--gradient_checkpointing",)], ids=["kept", "recomputed"])
def test_a_step_learns_by_wide_heads_what_it_would_by_its_own(small, tmp_path, recomputed):
    context = prepared([*replaced(small, resolution=128), *recomputed], tmp_path / "out")
    encode(context)
    models = build.load_models(context)
    task = build.build_task(context, models, build.build_state(context, models))
    batch = next(loop.micro_batches(context.engine, task, 0))

    def step(long: int) -> tuple[float, float, set[int]]:
        with pytest.MonkeyPatch.context() as patched, Widths() as widths:
            patched.setattr(narrow_heads, "LONG", long)
            losses = (task.method(one, context.engine.device).mean() for one in [batch])
            optimizer = context.engine.prepare(task.state.optimizer)
            result = optimizer_step(
                context.engine, task.state, optimizer, losses,
                step=0, learning_rate=0.0, max_grad_norm=1e9, guard=GradientGuard({}), asked=None,
            )  # fmt: skip
        numbers = result.read()
        return numbers.loss, numbers.grad_norm, {width for width, keys in widths.seen if keys >= 256}

    loss, norm, wide = step(narrow_heads.LONG)
    plain_loss, plain_norm, own = step(1_000_000)
    assert wide == {narrow_heads.PADDED}
    assert own, "the miniature has long sequences"
    assert max(own) < narrow_heads.NARROW
    assert loss == pytest.approx(plain_loss, abs=1e-6)
    assert norm == pytest.approx(plain_norm, rel=1e-5)
    assert norm > 0
