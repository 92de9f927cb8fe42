"""A step keeps the device busy: nothing is read back, opened or sent more often than it must be."""

import builtins

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import train_lora
from pipeline.run import build
from pipeline.run.encode import encode
from pipeline.training import loop
from pipeline.training.guards import GradientGuard
from pipeline.training.step import StepResult, optimizer_step
from tests.conftest import prepared, replaced

pytestmark = pytest.mark.unit


class Reads(TorchDispatchMode):
    """Counts what would wait for a device: a number taken out of a tensor."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.fixture
def task(small, tmp_path):
    """A task with dropout and dropped captions, its engine and a guard."""
    flags = [*small, "--lora_dropout", "0.2", "--caption_dropout", "0.5", "--gradient_accumulation_steps", "2"]
    context = prepared(flags, tmp_path / "out")
    encode(context)
    models = build.load_models(context)
    found = build.build_task(context, models, build.build_state(context, models))
    models.adapted.denoiser.train()
    return context.engine, found, GradientGuard(found.state.named)


def test_of_a_run_that_goes_on_only_what_has_not_learnt_is_waited_for():
    tensors = {f"unet.{layer}.lora_{half}.live.weight": torch.ones(2) for layer in "xy" for half in "AB"}
    tensors["unet.y.lora_B.live.weight"] = torch.zeros(2)
    named = {name: torch.nn.Parameter(value) for name, value in tensors.items()}
    assert GradientGuard(named).waiting == set(named)
    assert GradientGuard(named, 11).waiting == {"unet.y.lora_B.live.weight"}


def take(engine, task, guard, step: int = 0, batches=None) -> StepResult:
    batches = batches or [next(loop.micro_batches(engine, task, step)) for _ in range(2)]
    losses = (task.method(batch, engine.device).sum() / 4 for batch in batches)
    optimizer = engine.prepare(task.state.optimizer)
    return optimizer_step(
        engine, task.state, optimizer, losses,
        step=step, learning_rate=1e-3, max_grad_norm=1.0, guard=guard, asked=None,
    )  # fmt: skip


def test_a_step_takes_no_number_out_of_a_tensor_opens_no_file_and_makes_no_generator(task, monkeypatch):
    engine, found, guard = task
    batches = [next(loop.micro_batches(engine, found, 0)) for _ in range(2)]
    take(engine, found, guard, 0, batches)  # the optimizer makes its moments in its first step

    def refuse(*_args, **_values):
        raise AssertionError("not within a step")

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(torch, "Generator", refuse)
    with Reads() as reads:
        result = take(engine, found, guard, 1, batches)
    # AdamW on a CPU looks at its own step counters, which lie there on a GPU too.
    assert reads.count <= len(found.state.named)
    with Reads() as reads:
        found.method(batches[0], engine.device).sum().backward()
    assert reads.count == 0
    assert result.read().loss > 0


def test_processes_talk_once_in_a_step(task, monkeypatch):
    engine, found, guard = task
    messages = []
    monkeypatch.setattr(engine, "num_processes", 2)
    monkeypatch.setattr(engine, "add", lambda values: messages.append(values.numel()) or values)
    monkeypatch.setattr(engine, "gather", lambda _: pytest.fail("nothing is pickled in a step"))
    take(engine, found, guard)
    named = found.state.named
    num_weights = sum(value.numel() for value in named.values())
    # the gradients, whether each is there, the loss, and whether somebody was asked to stop
    assert messages == [num_weights + len(named) + 3]


def test_a_step_is_read_when_the_next_one_is_under_way_or_something_is_due(small, tmp_path, monkeypatch):
    events: list[str] = []
    step, read = loop.optimizer_step, StepResult.read
    numbers: dict[int, int] = {}

    def taken(*args, **values):
        result = step(*args, **values)
        events.append(f"step {values['step'] + 1}")
        numbers[id(result.values)] = values["step"] + 1
        kept.append(result)
        return result

    kept: list[StepResult] = []
    monkeypatch.setattr("sys.argv", ["train_lora.py"])
    monkeypatch.setattr(loop, "optimizer_step", taken)
    monkeypatch.setattr(
        StepResult, "read", lambda self: events.append(f"read {numbers[id(self.values)]}") or read(self)
    )
    flags = [*replaced(small, max_train_steps=6), "--checkpointing_steps", "4", "--output_dir", str(tmp_path / "out")]
    assert train_lora.main(flags) == 0
    assert events == [
        "step 1", "step 2", "read 1", "step 3", "read 2", "step 4", "read 3", "read 4",
        "step 5", "step 6", "read 5", "read 6",
    ]  # fmt: skip
