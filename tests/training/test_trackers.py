"""Trackers: two at once really write, what is missing is said before the first step, and none can end a run."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.adapter.names import FILE
from pipeline.evaluation.statistics import Interval
from pipeline.evaluation.validation import ClassRow
from pipeline.training import tracker_names
from pipeline.training.trackers import Trackers
from pipeline.training.tracking import StepRow
from tests.conftest import metrics, next_argv, replaced, status
from tests.invariants.test_resume import die
from tests.running import Running

ROW = StepRow(step=3, loss=0.5, learning_rate=1e-3, grad_norm=1.0, seconds=0.1, ids=("a",))
OFFLINE = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}


class Recording:
    """As much of one of accelerate's trackers as a run uses."""

    def __init__(self, failing=()):
        self.calls, self.failing = [], failing

    def __getattr__(self, name):
        def call(*given, **more):
            self.calls.append((name, given, more))
            if name in self.failing:
                raise RuntimeError("the server is gone")

        return call


@pytest.mark.unit
def test_one_that_fails_is_left_out_and_the_others_go_on(capsys):
    bad, good = Recording(failing=("log",)), Recording()
    trackers = Trackers({"mlflow": bad, "comet_ml": good})
    trackers.write(ROW)
    trackers.write(ROW)
    trackers.close()
    assert [name for name, *_ in bad.calls] == ["log"]
    assert [name for name, *_ in good.calls] == ["log", "log", "finish"]
    assert good.calls[0][1:] == (
        ({"loss": 0.5, "learning_rate": 1e-3, "grad_norm": 1.0, "seconds": 0.1},),
        {"step": 3},
    )
    found = ClassRow(loss=0.3, base=0.2, change=Interval(0.1, 0.0, 0.2, 4))
    good.calls.clear()
    Trackers({"comet_ml": good}).write(replace(ROW, of_class=found))
    assert good.calls[0][1][0].items() >= {"class/loss": 0.3, "class/base": 0.2}.items()
    assert capsys.readouterr().err.count("mlflow: the server is gone; logging there stops, the run goes on") == 1


@pytest.mark.unit
def test_pictures_are_handed_on_as_each_takes_them(tmp_path):
    for number in range(3):
        Image.new("RGB", (4, 2), (number, 0, 0)).save(tmp_path / f"{number}.png")
    opened = {name: Recording() for name in tracker_names.KINDS}
    trackers = Trackers(opened)
    trackers.show(7, tmp_path)
    trackers.show(7, tmp_path)  # the same ones again
    shown = {name: tracker.calls for name, tracker in opened.items() if tracker.calls}
    assert {name: len(calls) for name, calls in shown.items()} == {
        "tensorboard": 1, "wandb": 1, "swanlab": 1, "aim": 3, "clearml": 3,
    }  # fmt: skip
    ((_, (batch,), more),) = shown["tensorboard"]
    assert (batch["previews"].shape, more) == ((3, 2, 4, 3), {"step": 7, "dataformats": "NHWC"})
    assert [picture.size for picture in shown["wandb"][0][1][0]["previews"]] == [(4, 2)] * 3
    assert np.array_equal(shown["clearml"][2][1][0]["previews/2"], np.full((2, 4, 3), [2, 0, 0], np.uint8))


@pytest.mark.unit
def test_names_and_what_they_need(monkeypatch):
    there = {"tensorboard", "wandb"}
    monkeypatch.setattr(tracker_names.importlib.util, "find_spec", lambda name: name in there or None)
    assert tracker_names.named("none") == ()
    assert tracker_names.named("all") == ("tensorboard", "wandb")
    assert tracker_names.named("wandb, tensorboard,wandb") == ("wandb", "tensorboard")
    assert tracker_names.problems("wandb,tensorboard") == []
    assert tracker_names.problems("aim,mlflow") == [
        "--report_to aim,mlflow needs what is missing: pip install aim mlflow."
    ]
    (said,) = tracker_names.problems("wandb,nothing")
    assert said.startswith("--report_to 'wandb,nothing': no tracker is called 'nothing'; there are aim, clearml, ")
    assert tracker_names.problems("none,wandb") == ["--report_to 'none,wandb': 'none' can only be given alone."]


@pytest.mark.unit
def test_they_are_those_that_accelerate_knows():
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    assert set(tracker_names.KINDS) == set(LOGGER_TYPE_TO_CLASS)
    with_pictures = {name for name, kind in LOGGER_TYPE_TO_CLASS.items() if hasattr(kind, "log_images")}
    assert {name for name, kind in tracker_names.KINDS.items() if kind.pictures} == with_pictures


@pytest.mark.invariant
def test_two_at_once_write_what_a_killed_and_resumed_run_did(finished_run, small, tmp_path):
    """Every step once, the previews, the options without places and secrets; the adapter is bitwise the same."""
    out = tmp_path / "out"
    argv = [
        *replaced(small, num_validation_images=1), "--validation_prompt", "a red square", "--validation_steps", "4",
        "--checkpointing_steps", "4", "--report_to", "tensorboard,wandb", "--logging_dir", "logs/here",
        "--output_dir", str(out),
    ]  # fmt: skip
    killed = Running(argv, tmp_path / "log", environment=OFFLINE, prepared=at_step_ten).wait()
    assert killed.code == -9
    first = json.loads((out / "logs" / "here" / "trackers.json").read_text())
    ended = Running(next_argv(out), tmp_path / "again", environment=OFFLINE).wait()
    assert ended.code == 0, ended.output
    assert (out / FILE).read_bytes() == (finished_run() / FILE).read_bytes()
    assert json.loads((out / "logs" / "here" / "trackers.json").read_text()) == first

    board = EventAccumulator(str(out / "logs" / "here"), size_guidance={"images": 0, "scalars": 0}).Reload()
    losses = [(event.step, round(event.value, 5)) for event in board.Scalars("loss")]
    assert losses == [(row["step"], round(row["loss"], 5)) for row in metrics(out)]
    assert {event.step for event in board.Images("previews")} == {4, 8, 12}

    (told,) = (out / "logs").rglob("hparams.yml")
    assert "lora_alpha" in told.read_text()
    assert str(tmp_path) not in told.read_text()  # no places, no secrets

    runs = list((out / "logs" / "here" / "wandb").glob("offline-run-*"))
    assert len(runs) == 2
    assert {run.name.rpartition("-")[2] for run in runs} == {first["run"]}
    stored = b"".join(path.read_bytes() for run in runs for path in run.glob("*.wandb"))
    assert stored.count(b"grad_norm") >= 4  # of steps 9 to 12; what the killed one had not written is lost there
    assert b"lora_alpha" in stored
    assert b"\x03out" in stored  # the run is called like its folder
    assert b"overwrite_output_dir" in stored
    pictures = {path.read_bytes() for run in runs for path in run.rglob("media/images/*.png")}
    assert len(pictures) == 3  # of steps 4, 8 and 12


def at_step_ten():
    """In a run's process: killed at its tenth step."""
    from pipeline.training import loop

    step, calls = loop.optimizer_step, iter(range(100))
    loop.optimizer_step = lambda *given, **more: die() if next(calls) == 9 else step(*given, **more)


@pytest.mark.invariant
def test_a_missing_login_is_said_before_anything_is_encoded(small, tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    argv = [*replaced(small, cache_dir=cache), "--report_to", "wandb", "--output_dir", str(out)]
    nobody = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "WANDB_MODE": "online", "WANDB_API_KEY": ""}
    ended = Running(argv, tmp_path / "log", environment=nobody).wait()
    assert ended.code == 2, ended.output
    last = ended.output.splitlines()[-1]
    assert last.startswith("Error: --report_to wandb cannot be opened (")
    assert last.endswith("). Log in there first, or leave it out.")
    assert status(out)["state"] == "failed"
    assert not any(cache.rglob("*.safetensors"))


@pytest.mark.invariant
def test_the_time_of_every_step_is_its_own(finished_run):
    """Also where two are read at once, because something is due: none is left with nothing."""
    rows = metrics(finished_run())
    assert min(row["seconds"] for row in rows) > 1e-3
