"""Memory and time in the plan, from the command line on."""

import json
import tomllib

import pytest
import torch

from pipeline import cards, config
from pipeline.cards import CARDS, Device
from pipeline.engine import Engine
from pipeline.errors import ConfigError
from pipeline.geometry import Size
from pipeline.run import context as contexts
from pipeline.run import preflight, speed
from pipeline.run.cost import seconds
from pipeline.run.cost.memory import PROGRAM_BYTES
from pipeline.run.cost.step_on_meta import StepCount, StepShape
from tests.conftest import prepared

pytestmark = pytest.mark.unit
ROOM = PROGRAM_BYTES + 9_000_000  # two pictures of the miniature fit at once, and four do not
AUTO = ["--train_batch_size", "auto"]


def of(small, **values):
    """The flags of a small run without its batch size."""
    place = small.index("--train_batch_size")
    return [*small[:place], *small[place + 2 :], *AUTO]


def test_auto_is_the_usual_examples_of_a_step_in_as_few_pieces_as_fit(small, tmp_path, monkeypatch):
    run = prepared(of(small), tmp_path / "out").run
    assert (run.train.train_batch_size, run.train.gradient_accumulation_steps) == (4, 1)
    run = prepared([*of(small), "--gradient_accumulation_steps", "3"], tmp_path / "out").run
    assert (run.train.train_batch_size, run.train.gradient_accumulation_steps) == (12, 1)
    assert not run.train.gradient_checkpointing
    monkeypatch.setattr(contexts, "at_hand", lambda *_: Device("a machine", "cpu", ROOM))
    found = prepared(of(small), tmp_path / "out")
    assert (found.run.train.train_batch_size, found.run.train.gradient_accumulation_steps) == (2, 2)
    assert found.plan.global_batch == 4
    assert found.plan.notes[0].startswith("--train_batch_size auto: 2 at once, 2 times a step; 4 at once take")


def test_a_run_goes_on_with_the_number_that_auto_came_to(small, tmp_path, monkeypatch):
    begun = prepared(of(small), tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.toml").write_text(begun.run.to_toml(), encoding="utf-8")
    assert tomllib.loads(begun.run.to_toml())["train_batch_size"] == 4
    monkeypatch.setattr(contexts, "at_hand", lambda *_: Device("a smaller machine", "cpu", ROOM))
    found = prepared([*of(small), "--resume_from_checkpoint", "latest"], tmp_path / "out")
    assert (found.run.train.train_batch_size, found.run.train.gradient_accumulation_steps) == (4, 1)
    more = [*of(small), "--resume_from_checkpoint", "latest", "--gradient_accumulation_steps", "3"]
    other = prepared(more, tmp_path / "out").run.train  # another run, which its identity tells apart
    assert other.batch_size * other.gradient_accumulation_steps == 12


def test_a_gpu_without_the_room_is_refused_and_a_tight_one_noted(small, tmp_path, monkeypatch):
    monkeypatch.setattr(contexts, "at_hand", lambda *_: Device("a card", "cuda", 2_000_000))
    with pytest.raises(ConfigError, match=r"This run takes about .* and a card has 2 MiB"):
        prepared(small, tmp_path / "out")
    monkeypatch.setattr(contexts, "at_hand", lambda *_: Device("a card", "cuda", 400_000_000))
    assert prepared(small, tmp_path / "out").plan.notes[0].startswith("memory may not be enough")


def test_a_plan_for_a_card_that_is_not_here(small, tmp_path, trainer):
    ended = trainer(*small, "--output_dir", tmp_path / "out", "--dry_run", "--for", "RTX 4090")
    assert ended.code == 0
    for said in (
        "bf16 (as accelerate_configs/single_gpu.yaml says; for RTX 4090, which is not here)",
        "; RTX 4090 has 23.3 GiB",
        "kernels at 20 us of the host each, within a factor of two",
    ):
        assert said in ended.output


def planned_for(card, flags, folder):
    """The rows of a dry run's plan."""
    command = config.parse([*flags, "--dry_run"])
    data = preflight.preflight(command.run, folder / "out", command.yielding)
    Engine(None).release()  # whatever precision an earlier test left
    context = contexts.prepare(command.run, data, folder / "out", weights=False, card=card)
    context.engine.release()
    return dict(context.plan.rows)


def test_a_plan_for_a_card_is_that_of_the_card_in_every_row(small, tmp_path, monkeypatch):
    """Not of the machine that makes it, which has no compiler and launches no graphs."""
    monkeypatch.setattr(speed, "compiler_missing", lambda device: "a compiler")
    rows = planned_for("rtx3060", [*small, "--cuda_graphs", "auto", "--compile"], tmp_path)
    assert rows["step"] == "launched as one graph for each shape (--cuda_graphs auto)"
    assert "slower" not in rows["compiled"]
    half = [*small, "--cuda_graphs", "auto", "--mixed_precision", "fp16", "--base_quantization", "int8"]
    rows = planned_for("rtx3060", half, tmp_path)
    assert rows["precision"] == "fp16 (asked for by --mixed_precision; for RTX 3060, which is not here)"
    assert rows["step"].startswith("launched kernel by kernel: float16")
    assert rows["memory"].endswith("of libraries; RTX 3060 has 11.6 GiB")


def test_processes_agree_on_the_device_with_the_least_memory(small, tmp_path, monkeypatch):
    """Or one would refuse what the others begin, and nobody but the first says why."""
    monkeypatch.setattr(contexts, "at_hand", lambda *_: Device("a card", "cuda", 10**12))
    monkeypatch.setattr(Engine, "gather", lambda self, own: [own, Device("another", "cuda", 2_000_000)])
    with pytest.raises(ConfigError, match="and another has 2 MiB"):
        prepared(small, tmp_path / "out")


def test_cards_are_named_and_for_goes_with_dry_run():
    assert cards.problems("rtx 4090", dry_run=True) == cards.problems(None, dry_run=False) == []
    assert cards.problems("h100", dry_run=False) == ["--for plans for a card that is not here; give --dry_run with it."]
    (said,) = cards.problems("rtx1", dry_run=True)
    assert said.startswith("--for rtx1: no card is known so; known are h200, h100")
    with pytest.raises(ConfigError, match="2 options"):
        config.parse(["--for", "rtx1"])


def test_a_step_takes_as_long_as_its_operations_or_its_launches():
    shape = StepShape(Size.square(64), 1, torch.bfloat16, "cuda", False)
    card = CARDS["rtx4090"]
    large = StepCount(0, [], 0, num_flops=int(165.2e12), num_kernels=1000)
    found = seconds.step_seconds(large, shape, card, 3)
    assert found is not None
    assert found.seconds == pytest.approx(3 / 0.35)
    assert found.text(10, 5.0).startswith("about 8.57 s a step, 2:09 of training in all (estimated: 495.6 TFLOP at 35%")
    found = seconds.step_seconds(StepCount(0, [], 0, num_flops=1, num_kernels=1000), shape, card, 1)
    assert found is not None
    assert found.seconds == pytest.approx(1000 * 20e-6)
    assert seconds.step_seconds(large, shape, Device("unknown", "cuda", 1), 1) is None


def test_a_small_model_on_a_cpu_begins_without_being_counted(small, tmp_path):
    own = [*small[: small.index("--cache_dir")], *small[small.index("--cache_dir") + 2 :], "--cache_dir", str(tmp_path)]
    assert "memory" not in dict(prepared(own, tmp_path / "out").plan.rows)
    assert "memory" in planned_for(None, own, tmp_path)
    assert "memory" in dict(prepared(own, tmp_path / "out").plan.rows), "what was counted is known"
    (known,) = [path for path in (tmp_path / "encoded" / "known").glob("*.json") if "num_kernels" in path.read_text()]
    assert len(json.loads(known.read_text(encoding="utf-8"))["facts"]) == 1
