"""How a run ends: mistakes answered in a sentence, exit codes, status.json."""

import errno
import itertools
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline import atomic
from pipeline.errors import PeerLost
from pipeline.run import main
from pipeline.run.build import load_models
from pipeline.status import Status
from pipeline.training.signals import termination_signals
from tests.conftest import metrics, next_argv, prepared, replaced, status
from tests.running import Running

pytestmark = pytest.mark.invariant
FILE = "pytorch_lora_weights.safetensors"


def test_dry_run_prints_the_plan_and_encodes_nothing(trainer, small, tmp_path):
    ended = trainer(
        *replaced(small, cache_dir=tmp_path / "cache", lora_layers="attention+mlp"),
        "--output_dir",
        tmp_path / "out",
        "--dry_run",
    )
    assert ended.code == 0, ended.output
    assert "12 of 2 examples" in ended.output
    assert "40 layers" in ended.output
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "cache" / "encoded").iterdir()] == ["known"]  # what the files are like


def test_a_full_disk_is_said_in_a_sentence(small, tmp_path):
    """No checkpoint is spoken of where there is none, and status.json is as true as a full disk lets it be."""
    out = tmp_path / "out"
    flags = replaced(small, max_train_steps=3, num_validation_images=0)
    argv = [*flags, "--checkpointing_steps", "2", "--output_dir", str(out)]
    ended = Running(argv, tmp_path / "log", prepared=full_at_a_checkpoint).wait()
    assert ended.code == 1
    last = ended.output.splitlines()[-1]
    assert "Traceback" not in ended.output
    assert re.match(r"No room is left for .*; free some\. There is no checkpoint yet\. Go on with: python train", last)
    assert status(out)["state"] == "failed"
    assert status(out)["message"].endswith("There is no checkpoint yet")
    again = Running(next_argv(out), tmp_path / "again").wait()
    assert again.code == 0, again.output


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_status_is_true_on_a_full_disk_too(tmp_path, monkeypatch, number):
    """Nothing new can be written there, but what is there can be written over."""
    kept = Status(tmp_path)
    kept.write("training", "a long message, of which nothing may be left " * 3)
    full = OSError(number, os.strerror(number), "x.tmp")
    monkeypatch.setattr(atomic, "write_text", lambda *given: (_ for _ in ()).throw(full))
    kept.step = 7
    kept.write("failed", "no room", exit_code=1)
    said = status(tmp_path)
    assert (said["state"], said["message"], said["exit_code"], said["step"]) == ("failed", "no room", 1, 7)
    monkeypatch.setattr(atomic, "write_text", lambda *given: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        kept.write("failed", "no room", exit_code=1)


def full_at_a_checkpoint():
    """In a run's process: the disk has no room for tensors in the output folder, though it has for status.json."""
    from pipeline.training import checkpoint

    def write(path, *given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    checkpoint.writer.write = write


def test_the_plan_counts_what_is_really_trained(finished_run):
    out = finished_run()
    weights = sum(value.numel() for value in load_file(out / FILE).values())
    assert f"{weights:,} weights" in (out.parent / "log.txt").read_text(encoding="utf-8")
    assert len(metrics(out)) == 12
    assert status(out) == {
        "state": "done", "exit_code": 0, "step": 12, "message": "trained 12 steps", "next_command": None,
    }  # fmt: skip
    assert {path.name for path in out.iterdir()} >= {"report.html", "run.toml", "environment.json", "checkpoint-12"}


MISTAKES = {  # that only the loaded model shows; all others: test_mistakes.py
    "layers": (["--lora_layers", "to_z"], "matches no layer"),
    "prediction": (["--prediction_type", "v_prediction"], "says epsilon"),
    "fp16": (["--mixed_precision", "fp16"], "CPU"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_in_a_sentence(trainer, small, tmp_path, name):
    argv, said = MISTAKES[name]
    flags = [*small, "--output_dir", str(tmp_path / "out")]
    if argv[0] in flags:
        at = flags.index(argv[0])
        del flags[at : at + 2]
    ended = trainer(*flags, *argv)
    assert ended.code == 2, ended.output
    assert said in ended.output
    assert "Traceback" not in ended.output
    assert len(ended.output.split("Error: ")[1]) < 600


def test_a_rate_that_explodes_stops_the_training_and_spoils_no_file(trainer, small, tmp_path):
    out = tmp_path / "out"
    ended = trainer(*replaced(small, learning_rate="1e18"), "--output_dir", out, "--checkpointing_steps", "1")
    assert ended.code == 4, ended.output
    assert "Step" in ended.output
    assert "Learning rate" in ended.output
    assert (status(out)["exit_code"], status(out)["next_command"]) == (4, None)  # which would end so again
    for path in out.rglob("*.safetensors"):
        assert all(torch.isfinite(value).all() for value in load_file(path).values()), path


def test_a_failure_afterwards_keeps_the_adapter(trainer, small, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.toml").touch()  # a run began here
    (out / "samples").write_text("a file where the pictures should go")
    flags = replaced(small, max_train_steps=2)
    ended = trainer(*flags, "--output_dir", out, "--resume_from_checkpoint", "latest")
    assert ended.code == 3, ended.output
    assert (out / FILE).is_file()
    assert status(out)["state"] == "incomplete"
    (out / "samples").unlink()
    again = status(out)["next_command"].split("train_lora.py ")[1].split()
    assert trainer(*again).code == 0
    assert status(out)["state"] == "done"


def test_a_folder_that_is_moved_while_the_run_goes_on(small, tmp_path):
    out = tmp_path / "out"
    flags = replaced(small, max_train_steps=3)
    ended = Running([*flags, "--output_dir", str(out)], tmp_path / "log", prepared=moved_away).wait()
    assert ended.code == 3, ended.output
    last = ended.output.splitlines()[-1]
    assert last.startswith(f"Trained and saved as {out / FILE}, but what was in {out} before is gone: it was moved")
    assert (out / FILE).is_file()
    shutil.copytree(tmp_path / "elsewhere", out, dirs_exist_ok=True)
    again = Running(next_argv(out), tmp_path / "again").wait()
    assert again.code == 0, again.output


def moved_away():
    """In a run's process: its output folder gets another name at the second step."""
    from pipeline.training import loop

    step, calls = loop.optimizer_step, iter(range(100))

    def moving(engine, state, *given, **more):
        if next(calls) == 1:
            (out,) = (Path(word) for flag, word in itertools.pairwise(sys.argv) if flag == "--output_dir")
            out.rename(out.with_name("elsewhere"))
        return step(engine, state, *given, **more)

    loop.optimizer_step = moving


def test_previews_checkpoints_and_trackers_do_not_change_the_result(trainer, finished_run, small, tmp_path):
    plain, watched = finished_run(), tmp_path / "watched"
    prompts = ["--validation_prompt", "a red square", "--validation_prompt", "a red square, again"]
    ended = trainer(
        *replaced(small, num_validation_images=2), *prompts, "--validation_steps", "4", "--output_dir", watched,
        "--checkpointing_steps", "3", "--checkpoints_total_limit", "2", "--report_to", "tensorboard",
    )  # fmt: skip
    assert ended.code == 0, ended.output
    assert (plain / FILE).read_bytes() == (watched / FILE).read_bytes()
    assert sorted(path.name for path in watched.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-9"]
    folders = sorted(path.name for path in (watched / "samples").iterdir())
    assert folders == ["base", "data", "grid", "step-000004", "step-000008", "step-000012"]
    drawn = [folder for folder in folders if folder not in ("data", "grid")]
    pictures = [path.read_bytes() for folder in drawn for path in (watched / "samples" / folder).glob("*.png")]
    assert len(set(pictures)) == len(pictures) == 16
    assert any((watched / "logs").iterdir())


def test_gradient_checkpointing_is_on_where_asked_for(small, tmp_path):
    context = prepared([*small, "--gradient_checkpointing"], tmp_path / "unused")
    assert load_models(context).adapted.denoiser.is_gradient_checkpointing


def test_clipping_clips(trainer, small, tmp_path):
    """Adam forgives a scale, but not one far below its epsilon: clipped that hard, B hardly moves."""
    moved = []
    for norm in ("1.0", "1e-12"):
        out = tmp_path / norm
        flags = replaced(small, max_train_steps=3, num_validation_images=0)
        ended = trainer(*flags, "--max_grad_norm", norm, "--adam_weight_decay", "0", "--output_dir", out)
        assert ended.code == 0, ended.output
        tensors = load_file(out / FILE)
        moved.append(sum(value.norm().item() for name, value in tensors.items() if ".lora_B." in name))
        assert all(row["grad_norm"] > 1e-6 for row in metrics(out))  # the norm before clipping is what is logged
    assert moved[1] < 0.01 * moved[0]


def test_the_environment_is_written_down(trainer, finished_run, tmp_path):
    out = finished_run()
    environment = json.loads((out / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["threads"] >= 1
    again = trainer("--config", out / "run.toml", "--output_dir", tmp_path / "again")
    assert again.code == 0, again.output
    assert (out / FILE).read_bytes() == (tmp_path / "again" / FILE).read_bytes()


def test_images_to_compare_with_that_are_trained_on_are_named(trainer, small, colours, tmp_path):
    shutil.copytree(colours, tmp_path / "reference")
    ended = trainer(*small, "--evaluation_data_dir", tmp_path / "reference", "--output_dir", tmp_path / "out")
    assert ended.code == 2
    assert "holds 8 images that are trained on" in ended.output
    assert "red.png is red.png" in ended.output


def test_what_an_earlier_start_drew_is_forgotten(trainer, small, tmp_path):
    """Its checkpoints gone and started again: its pictures were of weights, perhaps of a base, that are gone too."""
    out = tmp_path / "out"
    flags = [*replaced(small, max_train_steps=2), "--validation_prompt", "a red square", "--output_dir", out]
    assert trainer(*flags).code == 0
    shutil.rmtree(out / "checkpoint-2")
    (out / FILE).unlink()
    base = out / "samples" / "base" / "0000.png"
    drawn = base.read_bytes()
    base.write_bytes((out / "samples" / "step-000002" / "0000.png").read_bytes())
    shutil.copytree(out / "samples" / "step-000002", out / "samples" / "step-000001")
    ended = trainer(*flags, "--resume_from_checkpoint", "latest")
    assert ended.code == 0, ended.output
    assert base.read_bytes() == drawn
    assert sorted(path.name for path in (out / "samples").glob("step-*")) == ["step-000002"]


def test_a_lost_process_is_what_ended_the_run_even_where_the_launcher_stops_the_survivor(monkeypatch, tmp_path, capfd):
    """The launcher's SIGTERM meets the survivor on its way out: status and sentence say what happened first."""
    kept = {number: signal.getsignal(number) for number in termination_signals()}

    def lost(command: object, status: Status, timer: object) -> None:
        status.folder.mkdir()
        status.claimed = True
        try:
            raise PeerLost("Another process of this run is gone")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(main, "_run", lost)
    try:
        code = main.run_and_report(["--train_data_dir", str(tmp_path), "--output_dir", str(tmp_path / "out")])
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    found = json.loads((tmp_path / "out" / "status.json").read_text(encoding="utf-8"))
    assert (code, found["state"], found["exit_code"]) == (1, "failed", 1)
    assert "Another process of this run is gone" in found["message"]
    assert "Another process of this run is gone" in capfd.readouterr().err


def test_what_the_first_process_said_before_it_went_stands(tmp_path, monkeypatch):
    """The others only know that it is gone."""
    status, ended = Status(tmp_path), main.ending_of(PeerLost("Another process of this run is gone"))
    status.claimed = True
    status.write("failed", "metrics.jsonl, line 3 is damaged", exit_code=2)
    monkeypatch.setattr(main, "is_main_process", lambda: False)
    main._note(status, ended)
    assert json.loads((tmp_path / "status.json").read_text())["exit_code"] == 2
    status.write("training", "step 5")
    main._note(status, ended)
    assert json.loads((tmp_path / "status.json").read_text())["exit_code"] == 1


@pytest.mark.parametrize("how", [["--resume_from_checkpoint", "latest"], ["--overwrite_output_dir"]])
def test_what_no_run_left_is_not_written_over(trainer, small, tmp_path, how):
    out = tmp_path / "out"
    (out / "samples").mkdir(parents=True)
    (out / "samples" / "x.png").write_bytes(b"precious")
    ended = trainer(*small, "--output_dir", out, *how)
    assert ended.code == 2
    assert "holds samples of something else" in ended.output
    assert [path.name for path in out.rglob("*") if path.is_file() and path.suffix] == ["x.png"]


def test_a_finished_adapter_without_checkpoints_is_not_trained_anew_by_a_resume(trainer, small, finished_run, tmp_path):
    out = Path(shutil.copytree(finished_run(), tmp_path / "out"))
    shutil.rmtree(out / "checkpoint-12")
    before = (out / FILE).read_bytes()
    ended = trainer(*small, "--output_dir", out, "--resume_from_checkpoint", "latest")
    assert ended.code == 2
    assert "holds a finished adapter and no checkpoint" in ended.output
    assert (out / FILE).read_bytes() == before
