"""Exit codes and status.json as people meet them: the script itself, and through accelerate launch.

The script is started in a warmed process where nothing of the start is in question; under the launcher it is cold.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest

from tests.conftest import metrics, next_argv, replaced, status
from tests.running import Running, wait_until

pytestmark = pytest.mark.invariant
LAUNCHER = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums are rounded in the same order in every process
ADAPTER = "pytorch_lora_weights.safetensors"


def ended(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=ENVIRONMENT)


@pytest.mark.parametrize("code", [1, 2, 3, 4, 75, 130])
def test_the_launcher_makes_1_of_every_failure_so_status_json_has_the_code(tmp_path, code):
    (tmp_path / "script.py").write_text(f"raise SystemExit({code})")
    words = [*LAUNCHER[3:], str(tmp_path / "script.py")]
    launch = ("-c", "from accelerate.commands.launch import main; main()")
    assert Running(words, tmp_path / "log", program=launch).wait().code == 1


def test_refused(small, tmp_path):
    """What is done under the launcher is in invariants/test_pasted.py."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "something.txt").write_text("else", encoding="utf-8")
    words = ["train_lora.py", *small, "--output_dir", str(out)]
    for start, code in (([sys.executable], 2), (LAUNCHER, 1)):
        refused = ended([*start, *words])
        assert refused.returncode == code
        assert "not empty" in refused.stderr
        assert [path.name for path in out.iterdir()] == ["something.txt"]


def small_files_only() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does when it starts
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, 256 * 1024))


def test_a_disk_that_takes_no_more_is_exit_1_and_no_half_checkpoint(trainer, small, tmp_path):
    """A limit on the size of files (a real one, set by the kernel) stops the first checkpoint half-way."""
    out = tmp_path / "out"
    flags = [*replaced(small, rank=64, max_train_steps=4), "--output_dir", str(out)]
    failed = Running(flags, tmp_path / "log", prepared=small_files_only).wait()
    assert failed.code == 1, failed.output
    said = status(out)
    assert (said["state"], said["exit_code"]) == ("failed", 1)
    assert "File too large" in said["message"]
    assert not list(out.glob("checkpoint-*"))
    assert not (out / ADAPTER).exists()
    again = trainer(*next_argv(out))
    assert again.code == 0, again.output


def test_a_training_that_cannot_go_on_is_exit_4(trainer, small, tmp_path):
    out = tmp_path / "out"
    failed = trainer(*replaced(small, learning_rate="1e18"), "--output_dir", str(out))
    assert failed.code == 4
    said = status(out)
    assert (said["state"], said["exit_code"]) == ("failed", 4)
    assert said["message"] in failed.output
    assert not (out / ADAPTER).exists()


def test_a_page_that_cannot_be_written_is_exit_3_and_costs_only_the_page(start, trainer, small, tmp_path):
    out = tmp_path / "out"
    running = start(*replaced(small, max_train_steps=20), "--output_dir", str(out))
    running.wait_for_step(out, 1)
    (out / "report.html" / "in the way").mkdir(parents=True)
    failed = running.wait()
    assert failed.code == 3, failed.output
    said = status(out)
    assert (said["state"], said["exit_code"]) == ("incomplete", 3)
    assert said["message"] in failed.output
    adapter = (out / ADAPTER).read_bytes()
    shutil.rmtree(out / "report.html")
    assert trainer(*next_argv(out)).code == 0
    assert (out / "report.html").is_file()
    assert (out / ADAPTER).read_bytes() == adapter
    assert len(metrics(out)) == 20


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_run_stopped_under_the_launcher_saves_says_so_and_goes_on_exactly(
    trainer, finished_run, small, tmp_path, number, code
):
    """SIGTERM goes to the process that was started: one launcher dies of it, and its worker must notice."""
    more = ["--caption_dropout", "0.3"]
    flags = [*replaced(small, max_train_steps=40), *more]
    out, whole = tmp_path / "out", finished_run("--max_train_steps", "40", *more)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*LAUNCHER, "train_lora.py", *flags, "--output_dir", str(out)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=ENVIRONMENT,
        )  # fmt: skip
        wait_until(lambda: (out / "metrics.jsonl").is_file() and len(metrics(out)) >= 3)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal sends it
        else:
            process.send_signal(number)
        process.wait(600)
    wait_until(lambda: status(out)["exit_code"] is not None)
    said = status(out)
    assert (said["state"], said["exit_code"]) == ("interrupted", code), (tmp_path / "log").read_text()
    # the launcher is gone by now, its options are not
    assert said["next_command"].startswith("accelerate launch --num_processes 1 --cpu train_lora.py")
    assert 3 <= said["step"] < 40
    assert (out / f"checkpoint-{said['step']}" / ADAPTER).is_file()
    assert trainer(*next_argv(out)).code == 0
    assert (out / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()


def test_the_next_run_waits_for_the_worker_of_a_launcher_that_was_killed(trainer, finished_run, small, tmp_path):
    """Two runs in one folder would lose what the other writes: every step is there once, the bytes are right."""
    flags = [*replaced(small, max_train_steps=40), "--caption_dropout", "0.3"]
    out, whole = tmp_path / "out", finished_run("--max_train_steps", "40", "--caption_dropout", "0.3")
    command = [*LAUNCHER, "train_lora.py", *flags, "--checkpointing_steps", "10", "--output_dir", str(out)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    wait_until(lambda: (out / "metrics.jsonl").is_file() and len(metrics(out)) >= 12)
    process.kill()
    again = trainer(*next_argv(out))
    assert again.code == 0, again.output
    assert [row["step"] for row in metrics(out)] == list(range(1, 41))
    assert (out / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()
