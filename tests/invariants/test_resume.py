"""Invariant 3: killed anywhere and started again, a run ends with the bytes of an undisturbed one."""

import functools
import json
import os
import shlex
import shutil
import signal
import sys
import tomllib
from pathlib import Path

import pytest

from pipeline import records
from tests.conftest import dedupe, metrics, next_argv, replaced, status
from tests.running import Running

pytestmark = pytest.mark.invariant
FILE = "pytorch_lora_weights.safetensors"
EXACT = [
    "--checkpointing_steps", "2", "--random_flip", "--caption_dropout", "0.3",
    "--validation_split", "0.25", "--validation_steps", "5", "--use_ema", "--ema_decay", "0.9",
    "--caption_separator", " ", "--shuffle_tags", "--tag_dropout", "0.3", "--caption_variants", "2",
    "--guided_target", "contrastive", "--stratified_timesteps", "--input_perturbation", "0.1", "--loss_type", "huber",
    "--use_dora", "--lora_dropout", "0.2", "--lora_layers", "attention+mlp", "--rank_pattern", "attn2.to_k=8",
    "--num_validation_images", "0",
]  # fmt: skip
SHORT = ["--checkpointing_steps", "2", "--random_flip", "--caption_dropout", "0.3", "--max_train_steps", "6"]


def adapter(folder: Path) -> bytes:
    return (folder / FILE).read_bytes()


def stream(folder: Path) -> list[tuple]:
    return [
        (row["step"], row["loss"], row["learning_rate"], row["ids"], row.get("validation")) for row in metrics(folder)
    ]


@pytest.fixture(scope="session")
def undisturbed(finished_run):
    return finished_run(*EXACT)


@pytest.fixture
def ended(undisturbed, tmp_path):
    """A copy of it to go on with, and the flags that do."""
    folder = Path(shutil.copytree(undisturbed, tmp_path / "ended"))
    flags = ["--config", str(folder / "run.toml"), "--output_dir", str(folder), "--resume_from_checkpoint", "latest"]
    return folder, flags


def test_kill_anywhere_and_go_on_is_bitwise(start, trainer, small, undisturbed, tmp_path):
    folder = tmp_path / "killed"
    running = start(*dedupe([*small, *EXACT]), "--output_dir", folder)
    for step, workers in ((1, 0), (5, 1), (8, 0)):
        running.wait_for_step(folder, step)
        running.kill()
        assert running.wait().code == -signal.SIGKILL
        assert status(folder)["state"] == "training"
        running = start(*next_argv(folder), "--dataloader_num_workers", workers)
    assert running.wait().code == 0
    assert adapter(folder) == adapter(undisturbed)
    assert stream(folder) == stream(undisturbed)
    assert [row["step"] for row in metrics(folder)] == list(range(1, 13))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGHUP, 75)])
def test_asked_to_stop_it_saves_and_goes_on_exactly(trainer, finished_run, small, tmp_path, number, code):
    folder, undisturbed = tmp_path / "stopped", finished_run(*SHORT)
    words = [*dedupe([*small, *SHORT]), "--output_dir", str(folder)]
    asked = functools.partial(hearing, number, signal.SIG_DFL if number == signal.SIGHUP else None)
    ended = Running(words, tmp_path / "log", prepared=asked).wait()
    assert ended.code == code, ended.output
    assert "checkpoint stands" not in ended.output  # which is said where nothing was saved
    said = status(folder)
    assert (said["state"], said["exit_code"]) == ("interrupted", code)
    assert 3 <= len(metrics(folder)) < 6
    assert (folder / f"checkpoint-{len(metrics(folder))}").is_dir()
    assert trainer(*next_argv(folder)).code == 0
    assert adapter(folder) == adapter(undisturbed)
    assert stream(folder) == stream(undisturbed)


def hearing(number: int, handler: signal.Handlers | None) -> None:
    """A signal comes in the middle of the third step; SIGHUP finds this handler, also where the tests run under nohup.

    From the run itself: no other process can aim so well.
    """
    from pipeline.training import loop

    if handler is not None:
        signal.signal(signal.SIGHUP, handler)
    step = loop.optimizer_step

    def heard(*given, **more):
        if more["step"] == 2:
            os.kill(os.getpid(), number)
        return step(*given, **more)

    loop.optimizer_step = heard


def without_a_reader() -> None:
    """stdout and stderr into a pipe whose reader has gone, as in `... | grep -m1 step`."""
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    os.close(reader)


def closed() -> None:
    """Started with `>&- 2>&-`."""
    sys.stdout = sys.stderr = None
    os.close(1)
    os.close(2)


@pytest.mark.parametrize("harm", [without_a_reader, closed])
def test_no_print_can_end_a_run(finished_run, small, tmp_path, harm):
    folder, undisturbed = tmp_path / "out", finished_run(*SHORT)
    words = [*dedupe([*small, *SHORT]), "--output_dir", str(folder)]
    assert Running(words, tmp_path / "log", prepared=harm).wait().code == 0
    assert status(folder)["state"] == "done"
    assert adapter(folder) == adapter(undisturbed)


def test_nohup_is_respected(finished_run, small, tmp_path):
    folder, undisturbed = tmp_path / "out", finished_run(*SHORT)
    words = [*dedupe([*small, *SHORT]), "--output_dir", str(folder)]
    hung_up = functools.partial(hearing, signal.SIGHUP, signal.SIG_IGN)
    assert Running(words, tmp_path / "log", prepared=hung_up).wait().code == 0
    assert adapter(folder) == adapter(undisturbed)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def while_encoding() -> None:
    """Killed when the third pair of pictures is to be stored."""
    from pipeline.data import shards

    store, calls = shards.atomic.write_tensors, iter(range(100))
    shards.MAX_ENTRIES = 2
    shards.atomic.write_tensors = lambda path, tensors: (
        die() if any(name.endswith("/mean") for name in tensors) and next(calls) == 2 else store(path, tensors)
    )


def in_a_checkpoint() -> None:
    """Killed between the two files of tensors of the second checkpoint."""
    from pipeline.training import checkpoint

    write, calls = checkpoint.writer.write, iter(range(100))
    checkpoint.writer.write = lambda *given: die() if next(calls) == 1 else write(*given)


def removing_a_checkpoint() -> None:
    """Killed when the oldest is no longer there under its name, and not yet gone."""
    from pipeline import atomic

    remove = shutil.rmtree
    atomic.shutil.rmtree = lambda path, **how: (
        die() if path.name.endswith(".trash") and not how else remove(path, **how)
    )


def in_the_hand_over() -> None:
    """Killed when the adapter is written and verified, and does not have its name yet."""
    from pipeline.run import export

    export.write_for_comfyui = lambda *given: die()


def after_the_hand_over() -> None:
    """Killed when the adapter has its name and nothing says so yet."""
    from pipeline.report import page

    page.write = lambda *given: die()


@pytest.mark.parametrize(
    ("harm", "num_steps"),
    [
        (while_encoding, 0),
        (in_a_checkpoint, 4),
        (removing_a_checkpoint, 6),
        (in_the_hand_over, 6),
        (after_the_hand_over, 6),
    ],
)
def test_killed_at_the_worst_moment_it_goes_on_exactly(trainer, finished_run, small, tmp_path, harm, num_steps):
    """By itself, in the middle of a function: no other process can aim so well."""
    folder, undisturbed = tmp_path / "killed", finished_run(*SHORT)
    flags = dedupe([*replaced(small, cache_dir=tmp_path / "cache"), *SHORT, "--checkpoints_total_limit", "2"])
    killed = Running([*flags, "--output_dir", str(folder)], tmp_path / "log", prepared=harm).wait()
    assert killed.code == -signal.SIGKILL, killed.output
    assert (len(metrics(folder)) if num_steps else (folder / "metrics.jsonl").exists()) == num_steps
    assert (folder / FILE).exists() == (harm is after_the_hand_over)
    assert status(folder)["exit_code"] is None
    again = trainer(*next_argv(folder))
    assert again.code == 0, again.output
    assert status(folder)["state"] == "done"
    assert adapter(folder) == adapter(undisturbed)
    assert stream(folder) == stream(undisturbed)
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_a_complete_run_is_left_alone(trainer, ended):
    folder, flags = ended
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = trainer(*flags)
    assert again.code == 0
    assert "Already complete" in again.output
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_of_a_complete_run_other_weights_can_be_asked_for(trainer, ended, undisturbed):
    """And pictures, files, an upload: whatever is made after the last step."""
    folder, flags = ended
    kept = json.loads((folder / "result.json").read_text())["kept_step"]
    other = {"best": "last", "last": "best"}
    before = tomllib.loads((folder / "run.toml").read_text())["keep"]
    again = trainer(*flags, "--keep", other[before])
    assert again.code == 0, again.output
    assert "Already complete" not in again.output
    assert tomllib.loads((folder / "run.toml").read_text())["keep"] == other[before]
    assert json.loads((folder / "result.json").read_text())["kept_step"] in ({12} if before == "best" else range(13))
    back = trainer(*flags, "--keep", before)
    assert back.code == 0, back.output
    assert json.loads((folder / "result.json").read_text())["kept_step"] == kept
    assert adapter(folder) == adapter(undisturbed)


def test_a_run_that_was_killed_while_its_file_was_written_goes_on(trainer, ended, undisturbed):
    folder, flags = ended
    (folder / ".export").mkdir()
    (folder / ".export" / ".pytorch_lora_weights.safetensors.7.tmp").write_bytes(b"half")
    (folder / "status.json").write_text(json.dumps({**status(folder), "state": "finishing", "exit_code": None}))
    again = trainer(*flags)
    assert again.code == 0, again.output
    assert adapter(folder) == adapter(undisturbed)
    assert not (folder / ".export").exists()


def test_damaged_files_that_a_start_writes_anew_do_not_keep_it_from_going_on(trainer, ended, undisturbed):
    folder, flags = ended
    for name, damaged in (("status.json", b"[]"), ("environment.json", b"\xff")):
        (folder / name).write_bytes(damaged)
    again = trainer(*flags)
    assert again.code == 0, again.output
    for name in ("status.json", "environment.json"):
        assert f"note: {folder / name} is damaged; it is written anew" in again.output
        assert records.table_in(folder / name)
    assert adapter(folder) == adapter(undisturbed)


def test_a_damaged_checkpoint_is_passed_over_aloud(trainer, ended):
    folder, flags = ended
    newest = folder / "checkpoint-12" / "state.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    expected = adapter(folder)
    again = trainer(*flags)
    assert again.code == 0, again.output
    assert "checkpoint-12 is passed over" in again.output
    assert adapter(folder) == expected


@pytest.mark.parametrize("change", [["--learning_rate", "2e-3"], ["--rank", "8"], ["--seed", "1"]])
def test_another_run_is_not_continued(trainer, ended, change):
    folder, flags = ended
    before = adapter(folder), status(folder)
    again = trainer(*flags, *change)
    assert again.code == 2
    assert change[0].lstrip("-") in again.output
    dry = trainer(*flags, *change, "--dry_run")
    assert (dry.code, "belongs to another run" in dry.output) == (2, True)
    assert (adapter(folder), status(folder)) == before


def test_a_resume_that_is_refused_for_its_data_names_the_picture(trainer, ended, tmp_path):
    folder, flags = ended
    data = shutil.copytree(records.table_in(folder / "run.toml")["train_data_dir"], tmp_path / "data")
    text = (data / "metadata.jsonl").read_text(encoding="utf-8")
    (data / "metadata.jsonl").write_text(text.replace("a red square", "a rad square"), encoding="utf-8")
    again = trainer(*flags, "--train_data_dir", data)
    assert again.code == 2
    assert "Of the examples:\n  - red.png: something else is written of it" in again.output


def test_a_finished_run_is_lengthened_by_the_line_that_its_refusal_names(trainer, ended):
    folder, flags = ended
    again = trainer(*flags, "--max_train_steps", "14")
    assert again.code == 2
    (line,) = [line for line in again.output.splitlines() if line.startswith("To train on for 2 steps")]
    words = shlex.split(line.partition("train_lora.py")[2])
    more = trainer(*words)
    assert more.code == 0, more.output
    assert status(Path(f"{folder}-more"))["step"] == 2
    shorter = trainer(*flags, "--max_train_steps", "5")
    assert shorter.code == 2
    assert "To train on" not in shorter.output
    (folder / FILE).unlink()
    unended = trainer(*flags, "--max_train_steps", "14", "--dry_run")
    assert "This run has not ended: go on with --max_train_steps 12, then" in unended.output


def test_an_output_folder_in_use_is_refused(trainer, small, ended):
    folder, _ = ended
    refused = trainer(*dedupe([*small, *EXACT]), "--output_dir", folder)
    assert refused.code == 2
    assert "not empty" in refused.output
    assert status(folder)["state"] == "done"
