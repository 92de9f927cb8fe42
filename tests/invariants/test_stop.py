"""Asked to stop at awkward moments, a run still finishes its step, saves and says so."""

import os
import signal

import pytest

from tests.conftest import next_argv, replaced, status
from tests.running import Running

pytestmark = pytest.mark.invariant
FILE = "pytorch_lora_weights.safetensors"


def last_heard() -> None:
    """SIGTERM comes in the last step."""
    from pipeline.training import loop

    step = loop.optimizer_step

    def heard(*given, **more):
        if more["step"] == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*given, **more)

    loop.optimizer_step = heard


def test_a_stop_in_the_last_step_is_a_stop(trainer, small, tmp_path):
    folder = tmp_path / "out"
    words = [*replaced(small, max_train_steps=6), "--output_dir", str(folder)]
    ended = Running(words, tmp_path / "log", prepared=last_heard).wait()
    assert ended.code == 75, ended.output
    assert (status(folder)["state"], status(folder)["step"]) == ("interrupted", 6)
    assert not (folder / FILE).exists()
    assert trainer(*next_argv(folder)).code == 0
    assert (folder / FILE).is_file()


def test_what_reaches_all_processes_stops_the_run_and_not_its_workers(small, tmp_path):
    """As a scheduler or a closed terminal sends it: a worker that died of it would take the run along."""
    out = tmp_path / "out"
    words = [*replaced(small, max_train_steps=2000), "--dataloader_num_workers", "1", "--output_dir", str(out)]
    process = Running(words, tmp_path / "log", prepared=os.setsid)
    process.wait_for_step(out, 3)
    os.killpg(process.pid, signal.SIGTERM)
    ended = process.wait()
    assert ended.code == 75, ended.output
    assert (out / f"checkpoint-{status(out)['step']}" / FILE).is_file()
