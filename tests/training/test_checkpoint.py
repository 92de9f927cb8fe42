import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline import atomic
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.names import FILE
from pipeline.adapter.options import AdapterOptions
from pipeline.errors import CheckpointError
from pipeline.families import registry
from pipeline.training import checkpoint
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.identity import Identity
from pipeline.training.state import TrainState
from pipeline.training.tracking import Metrics, read
from tests.conftest import attach
from tests.rows import step_row

pytestmark = pytest.mark.unit
ANY = Identity({}, {})


@pytest.fixture
def trained(miniature):
    family = registry.detect(miniature)
    denoiser = family.load("unet").unet
    attach(denoiser, AdapterOptions(rank=2), family.targets)
    adapted = AdaptedModels({"unet": denoiser})
    named = adapted.parameters()
    optimizer = torch.optim.AdamW(named.values())
    for value in named.values():
        value.grad = torch.ones_like(value)
    optimizer.step()
    return adapted, TrainState(named, optimizer)


def save(checkpoints: Checkpoints, step: int, trained: tuple) -> None:
    adapted, state = trained
    checkpoints.save(step, state, adapted)


def test_the_newest_are_kept_and_another_runs_are_not_touched(tmp_path, trained):
    save(Checkpoints(tmp_path, Identity({"rank": 8}, {}), None), 700, trained)
    checkpoints = Checkpoints(tmp_path, Identity({"rank": 2}, {}), 2)
    for step in (2, 4, 10):
        save(checkpoints, step, trained)
    assert [path.name for path in checkpoint.existing(tmp_path)] == ["checkpoint-4", "checkpoint-10", "checkpoint-700"]


def test_a_run_removes_what_it_wrote_before_an_update(tmp_path, trained):
    save(Checkpoints(tmp_path, Identity({"rank": 2}, {}), None), 2, trained)
    save(Checkpoints(tmp_path, Identity({"rank": 2, "jitter": 0.1}, {}), None), 3, trained)
    save(Checkpoints(tmp_path, Identity({"rank": 2, "jitter": 0.0}, {"jitter": 0.0}), 1), 4, trained)
    assert [path.name for path in checkpoint.existing(tmp_path)] == ["checkpoint-3", "checkpoint-4"]


def test_a_full_disk_costs_neither_the_old_nor_leaves_half_of_the_new(tmp_path, trained, monkeypatch):
    checkpoints = Checkpoints(tmp_path, ANY, 1)
    save(checkpoints, 2, trained)

    def full(path, *rest, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        save(checkpoints, 4, trained)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    assert checkpoint.damage(tmp_path / "checkpoint-2") == ""


@pytest.mark.parametrize("harm", ["cut", "missing", "flipped", "facts", "list", "number"])
def test_damage_is_found(tmp_path, trained, harm):
    checkpoints = Checkpoints(tmp_path, ANY, None)
    save(checkpoints, 2, trained)
    save(checkpoints, 4, trained)
    state = tmp_path / "checkpoint-4" / "state.safetensors"
    if harm == "cut":
        state.write_bytes(state.read_bytes()[:-9])
    if harm == "missing":
        state.unlink()
    if harm == "flipped":
        state.write_bytes(state.read_bytes()[:-1] + b"\xff")
    if harm == "facts":
        (tmp_path / "checkpoint-4" / "state.json").write_text("{")
    if harm == "list":
        (tmp_path / "checkpoint-4" / "state.json").write_text("[]")
    if harm == "number":
        facts = tmp_path / "checkpoint-4" / "state.json"
        facts.write_text(facts.read_text().replace('"num_worse": 0', '"num_worse": 1'))
    assert checkpoints.find("latest") == tmp_path / "checkpoint-2"
    with pytest.raises(CheckpointError):
        checkpoints.find(str(tmp_path / "checkpoint-4"))
    (tmp_path / "checkpoint-2" / "state.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no checkpoint that can be gone on from") as error:
        checkpoints.find("latest")
    assert all(f"checkpoint-{step} is passed over" in str(error.value) for step in (2, 4))


def test_restoring_gives_back_every_tensor(tmp_path, trained):
    denoiser, state = trained
    state = TrainState(state.named, state.optimizer, ema_decay=0.9)
    state.note(3, 0.5)
    state.note(4, 0.6)
    state.put({name: value + 1 for name, value in state.copy_of_current().items()})
    state.update_average(1)
    checkpoints = Checkpoints(tmp_path, ANY, None)
    save(checkpoints, 5, (denoiser, state))
    before, facts = {name: value.clone() for name, value in state.tensors().items()}, state.facts()
    assert {name.split("/")[0] for name in before} == {
        "adapter", "average", "best", "optimizer.exp_avg", "optimizer.exp_avg_sq", "optimizer.step",
    }  # fmt: skip
    fresh = TrainState(state.named, torch.optim.AdamW(state.named.values(), lr=7.0), ema_decay=0.9)
    fresh.put({name: torch.zeros_like(value) for name, value in state.copy_of_current().items()})
    assert checkpoints.restore(tmp_path / "checkpoint-5", fresh) == 5
    after = fresh.tensors()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert fresh.facts() == json.loads(json.dumps(facts))
    assert (fresh.best.step, fresh.num_worse) == (3, 1)


def test_no_pickle_is_written(tmp_path, trained):
    save(Checkpoints(tmp_path, ANY, None), 1, trained)
    assert {path.suffix for path in (tmp_path / "checkpoint-1").iterdir()} == {".safetensors", ".json"}


def test_other_tensors_are_refused(tmp_path, trained):
    save(Checkpoints(tmp_path, ANY, None), 1, trained)
    checkpoints, state = Checkpoints(tmp_path, ANY, None), trained[1]
    other = TrainState({**state.named, "extra": nn.Parameter(torch.zeros(1))}, state.optimizer)
    with pytest.raises(CheckpointError, match="extra"):
        checkpoints.restore(tmp_path / "checkpoint-1", other)
    with pytest.raises(CheckpointError, match="average"):
        checkpoints.restore(tmp_path / "checkpoint-1", TrainState(state.named, state.optimizer, ema_decay=0.9))


def test_metrics_hold_each_step_once_after_a_resume(tmp_path):
    metrics = Metrics(tmp_path, 0)
    for step in range(1, 6):
        metrics.write(step_row(step, loss=float("nan") if step == 2 else 1.0))
    metrics.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed in mid-line
    metrics = Metrics(tmp_path, 3)
    metrics.write(step_row(4, loss=2.0))
    metrics.close()
    found = read(tmp_path)
    assert [row.step for row in found] == [1, 2, 3, 4]
    assert math.isnan(found[1].loss)
    assert [row.loss for row in found if row.step != 2] == [1.0, 1.0, 2.0]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[1]["loss"] == "nan"  # JSON has no such number
    assert set(lines[0]) == {"step", "loss", "learning_rate", "grad_norm", "seconds", "ids"}


def test_what_is_damaged_behind_the_step_that_is_gone_on_from_is_dropped_aloud(tmp_path, capsys):
    metrics = Metrics(tmp_path, 0)
    for step in range(1, 4):
        metrics.write(step_row(step))
    metrics.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo\n')
    with pytest.raises(CheckpointError, match="no step's"):
        Metrics(tmp_path, 4)
    whole = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(f"{{\n{whole}")
    with pytest.raises(CheckpointError, match="no step's"):  # at its very beginning
        Metrics(tmp_path, 3)
    (tmp_path / "metrics.jsonl").write_text(whole)
    Metrics(tmp_path, 3).close()
    assert "metrics.jsonl is damaged after step 3; what stands there is dropped" in capsys.readouterr().err
    assert [row.step for row in read(tmp_path)] == [1, 2, 3]


def test_a_checkpoints_adapter_is_what_would_be_handed_over(tmp_path, trained):
    """The average where there is one; the weights that training goes on with lie beside it."""
    adapted, state = trained
    averaged = TrainState(state.named, state.optimizer, ema_decay=0.9)
    averaged.average = {name: torch.full_like(value, 0.25) for name, value in averaged.average.items()}
    live = {name: value.detach().clone() for name, value in averaged.named.items()}
    path = Checkpoints(tmp_path, ANY, None).save(1, averaged, adapted)
    adapter = load_file(path / FILE)
    assert len(adapter) == len(live)
    assert all(torch.equal(value, torch.full_like(value, 0.25)) for value in adapter.values())
    kept = load_file(path / checkpoint.STATE)
    assert all(torch.equal(kept[f"adapter/{name}"], value) for name, value in live.items())
