"""Exit codes and status.json as people meet them: the script itself, and through accelerate launch."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import metrics, replaced, status

pytestmark = pytest.mark.invariant
PLAIN = [sys.executable]
LAUNCHER = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu"]
both = pytest.mark.parametrize("start", [PLAIN, LAUNCHER], ids=["plain", "launcher"])
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums are rounded in the same order in every process
ADAPTER = "pytorch_lora_weights.safetensors"


def ended(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=ENVIRONMENT)


def wait_until(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def next_words(folder: Path, start: list[str]) -> list[str]:
    command = shlex.split(status(folder)["next_command"])
    return [*start, *command[command.index("train_lora.py") :]]


@both
def test_done_and_refused(small, tmp_path, start):
    out = tmp_path / "out"
    command = [*start, "train_lora.py", *small, "--output_dir", str(out)]
    done = ended(command)
    assert done.returncode == 0, done.stderr
    assert str(out / "report.html") in done.stderr.splitlines()[-1]
    refused = ended(command)
    assert refused.returncode == (2 if start is PLAIN else 1)
    assert "not empty" in refused.stderr
    assert status(out)["state"] == "done"


@both
def test_a_disk_that_takes_no_more_is_exit_1_and_no_half_checkpoint(small, tmp_path, start):
    """A limit on the size of files (a real one, set by the shell) stops the first checkpoint half-way."""
    out = tmp_path / "out"
    command = [*start, "train_lora.py", *replaced(small, rank=64), "--output_dir", str(out)]
    failed = ended(["bash", "-c", f"ulimit -f 256; exec {shlex.join(command)}"])
    assert failed.returncode == 1, failed.stderr
    said = status(out)
    assert (said["state"], said["exit_code"]) == ("failed", 1)
    assert "File too large" in said["message"]
    assert not list(out.glob("checkpoint-*"))
    assert not (out / ADAPTER).exists()
    again = ended(next_words(out, start))
    assert again.returncode == 0, again.stderr


@both
def test_a_training_that_cannot_go_on_is_exit_4(small, tmp_path, start):
    out = tmp_path / "out"
    failed = ended([*start, "train_lora.py", *replaced(small, learning_rate="1e18"), "--output_dir", str(out)])
    assert failed.returncode == (4 if start is PLAIN else 1)
    said = status(out)
    assert (said["state"], said["exit_code"]) == ("failed", 4)
    assert said["message"] in failed.stderr
    assert not (out / ADAPTER).exists()


@both
def test_a_page_that_cannot_be_written_is_exit_3_and_costs_only_the_page(small, tmp_path, start):
    out = tmp_path / "out"
    command = [*start, "train_lora.py", *replaced(small, max_train_steps=60), "--output_dir", str(out)]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
    )
    wait_until(lambda: (out / "metrics.jsonl").is_file())
    (out / "report.html" / "in the way").mkdir(parents=True)
    log, _ = process.communicate(timeout=120)
    assert process.returncode == (3 if start is PLAIN else 1), log
    said = status(out)
    assert (said["state"], said["exit_code"]) == ("incomplete", 3)
    assert said["message"] in log
    adapter = (out / ADAPTER).read_bytes()
    (out / "report.html" / "in the way").rmdir()
    (out / "report.html").rmdir()
    assert ended(next_words(out, start)).returncode == 0
    assert (out / "report.html").is_file()
    assert (out / ADAPTER).read_bytes() == adapter
    assert len(metrics(out)) == 60


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@both
def test_a_stopped_run_saves_says_so_and_goes_on_exactly(small, tmp_path, start, number, code):
    """SIGTERM goes to the process that was started: one launcher dies of it, and its worker must notice."""
    flags = [*replaced(small, max_train_steps=150), "--caption_dropout", "0.3"]
    out, whole = tmp_path / "out", tmp_path / "whole"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*start, "train_lora.py", *flags, "--output_dir", str(out)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=ENVIRONMENT,
        )  # fmt: skip
        wait_until(lambda: (out / "metrics.jsonl").is_file() and len(metrics(out)) >= 3)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal sends it
        else:
            process.send_signal(number)
        process.wait(60)
    wait_until(lambda: status(out)["exit_code"] is not None)
    said = status(out)
    assert (said["state"], said["exit_code"]) == ("interrupted", code), (tmp_path / "log").read_text()
    if start is PLAIN:
        assert process.returncode == code
    else:  # the launcher is gone by now, its options are not
        assert said["next_command"].startswith("accelerate launch --num_processes 1 --cpu train_lora.py")
    assert 3 <= said["step"] < 150
    assert (out / f"checkpoint-{said['step']}" / ADAPTER).is_file()
    assert ended(next_words(out, start)).returncode == 0
    assert ended([*PLAIN, "train_lora.py", *flags, "--output_dir", str(whole)]).returncode == 0
    assert (out / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()


def test_the_next_run_waits_for_the_worker_of_a_launcher_that_was_killed(small, tmp_path):
    """Two runs in one folder would lose what the other writes: every step is there once, the bytes are right."""
    flags = [*replaced(small, max_train_steps=200), "--checkpointing_steps", "10"]
    out, whole = tmp_path / "out", tmp_path / "whole"
    command = [*LAUNCHER, "train_lora.py", *flags, "--output_dir", str(out)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    wait_until(lambda: (out / "metrics.jsonl").is_file() and len(metrics(out)) >= 25)
    process.kill()
    again = ended(next_words(out, LAUNCHER))
    assert again.returncode == 0, again.stderr
    assert [row["step"] for row in metrics(out)] == list(range(1, 201))
    assert ended([*PLAIN, "train_lora.py", *flags, "--output_dir", str(whole)]).returncode == 0
    assert (out / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()
