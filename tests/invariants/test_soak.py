"""Invariant 3, at length: twenty kills at random moments, from the first import on, with one process and with two."""

import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import metrics, replaced, status

pytestmark = [pytest.mark.invariant, pytest.mark.slow]
FILE = "pytorch_lora_weights.safetensors"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu_2proc.yaml"]
NUM_KILLS, LONGEST = 20, 12.0  # seconds from the start of a process to its kill: most of it is start-up


@pytest.mark.parametrize("start", [[sys.executable], LAUNCH], ids=["one", "two"])
def test_twenty_kills_cost_nothing(small, tmp_path, start):
    flags = [*replaced(small, max_train_steps=600), "--checkpointing_steps", "20", "--checkpoints_total_limit", "3"]
    flags += ["--random_flip", "--caption_dropout", "0.3", "--validation_split", "0.5", "--validation_steps", "50"]
    flags += ["--use_ema", "--ema_decay", "0.9"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, out = tmp_path / "whole", tmp_path / "out"
    command = [*start, "train_lora.py", *flags, "--output_dir", str(whole)]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    chance, kills = random.Random(len(start)), 0
    words = [*start, "train_lora.py", *flags, "--output_dir", str(out)]
    while kills < NUM_KILLS:
        with (tmp_path / "log").open("a") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)
            try:
                code = process.wait(chance.uniform(0.5, LONGEST))
                assert code == 0, Path(log.name).read_text()
                break  # it got through between two kills
            except subprocess.TimeoutExpired:
                everyone = psutil.Process(process.pid).children(recursive=True) if chance.random() < 0.5 else []
                process.kill()  # the launcher alone, whose workers must notice, or all of them
                for worker in everyone:
                    worker.kill()
                process.wait()
                kills += 1
        if (out / "status.json").is_file():
            if status(out)["state"] == "done":
                break  # killed after its last word
            next_words = shlex.split(status(out)["next_command"])
            words = [*start, *next_words[next_words.index("train_lora.py") :]]
    if status(out)["state"] != "done":
        subprocess.run(words, check=True, env=environment, capture_output=True)
    assert kills >= NUM_KILLS // 2
    print(f"{kills} kills")  # noqa: T201  # what a soak is run for
    assert (out / FILE).read_bytes() == (whole / FILE).read_bytes()
    assert [row["step"] for row in metrics(out)] == list(range(1, 601))
    for before, after in zip(metrics(whole), metrics(out), strict=True):
        assert [before[key] for key in ("loss", "grad_norm", "ids")] == [
            after[key] for key in ("loss", "grad_norm", "ids")
        ]
        assert before.get("validation") == after.get("validation")
