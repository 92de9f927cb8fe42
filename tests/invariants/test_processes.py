"""Invariant 2: the number of processes and of micro-steps changes nothing, and a process that dies is missed."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import metrics, replaced, status

pytestmark = pytest.mark.invariant
FILE = "pytorch_lora_weights.safetensors"
TWO = [
    sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu_2proc.yaml",
]  # fmt: skip
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def two_processes(*argv: object) -> subprocess.CompletedProcess[str]:
    words = [*TWO, "train_lora.py", *map(str, argv)]
    return subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=ENVIRONMENT)


def losses(folder: Path) -> list[tuple]:
    return [(row["step"], row["loss"], row["learning_rate"], row["grad_norm"], row["ids"]) for row in metrics(folder)]


def test_two_processes_do_bit_for_bit_what_one_does_in_two_micro_steps(trainer, small, tmp_path):
    more = ["--random_flip", "--caption_dropout", "0.3", "--validation_split", "0.5", "--validation_steps", "6"]
    more += ["--lora_dropout", "0.2"]
    flags, two, one = [*small, *more], tmp_path / "two", tmp_path / "one"
    ended = two_processes(*flags, "--output_dir", two)
    assert ended.returncode == 0, ended.stderr
    assert "(2 per micro-step x 1 x 2 processes)" in ended.stderr
    assert ended.stderr.count("Handed over") == 1
    assert trainer(*flags, "--gradient_accumulation_steps", "2", "--output_dir", one).code == 0
    assert (two / FILE).read_bytes() == (one / FILE).read_bytes()
    assert losses(two) == losses(one)
    for row in metrics(two):
        parts = [set(rank["ids"]) for rank in row["ranks"]]
        assert len({rank["pid"] for rank in row["ranks"]}) == 2
        assert [len(rank["ids"]) for rank in row["ranks"]] == [2, 2]
        assert sorted(row["ids"]) == sorted(name for rank in row["ranks"] for name in rank["ids"])
        assert parts[0] != parts[1]
    flags = replaced(flags, train_batch_size=4)
    assert trainer(*flags, "--output_dir", tmp_path / "whole").code == 0
    ours, theirs = load_file(two / FILE), load_file(tmp_path / "whole" / FILE)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)


def test_a_mistake_is_answered_once_by_both(small, tmp_path):
    ended = two_processes(*small, "--output_dir", tmp_path / "out", "--resume_from_checkpoint", "nowhere")
    assert ended.returncode == 1
    assert ended.stderr.count("Error: --resume_from_checkpoint nowhere") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_process_is_killed_the_other_says_so_and_the_run_goes_on_exactly(trainer, small, tmp_path, victim):
    flags, out, whole = replaced(small, max_train_steps=400), tmp_path / "out", tmp_path / "whole"
    more = ["--checkpointing_steps", "5", "--checkpoints_total_limit", "2"]
    with (tmp_path / "log").open("w") as log:
        words = [*TWO, "train_lora.py", *flags, *more, "--output_dir", str(out)]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT)
        deadline = time.monotonic() + 120
        while not ((out / "metrics.jsonl").is_file() and len(metrics(out)) > 12):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(metrics(out)[0]["ranks"][victim]["pid"], signal.SIGKILL)
        assert process.wait(60) == 1
    said = (tmp_path / "log").read_text()
    assert "Another process of this run is gone" in said
    assert (status(out)["state"], status(out)["exit_code"]) == ("failed", 1)
    again = json.loads((out / "status.json").read_text())["next_command"]
    assert again.startswith(f"accelerate launch {shlex.join(TWO[3:])} train_lora.py")
    alone = trainer("--config", out / "run.toml", "--resume_from_checkpoint", "latest")
    assert alone.code == 2  # half the examples a step would be another run
    assert "global_batch: 4 then, 2 now" in alone.output
    assert len(metrics(out)) < 400
    resumed = two_processes("--config", out / "run.toml", "--resume_from_checkpoint", "latest")
    assert resumed.returncode == 0, resumed.stderr
    assert trainer(*flags, "--gradient_accumulation_steps", "2", "--output_dir", whole).code == 0
    assert (out / FILE).read_bytes() == (whole / FILE).read_bytes()
