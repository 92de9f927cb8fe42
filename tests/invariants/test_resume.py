"""Invariant 3: killed anywhere and started again, a run ends with the bytes of an undisturbed one."""

import random
import signal
from pathlib import Path

import pytest

from tests.conftest import metrics, next_argv, status

pytestmark = pytest.mark.invariant
EXACT = [
    "--checkpointing_steps", "2", "--random_flip", "--caption_dropout", "0.3",
    "--validation_split", "0.5", "--validation_steps", "3", "--use_ema", "--ema_decay", "0.9",
    "--use_dora", "--lora_dropout", "0.2", "--rank_pattern", "attn2.to_k=8",
]  # fmt: skip


def adapter(folder: Path) -> bytes:
    return (folder / "pytorch_lora_weights.safetensors").read_bytes()


def stream(folder: Path) -> list[tuple]:
    return [
        (row["step"], row["loss"], row["learning_rate"], row["ids"], row.get("validation")) for row in metrics(folder)
    ]


@pytest.fixture
def undisturbed(trainer, small, tmp_path):
    folder = tmp_path / "undisturbed"
    ended = trainer(*small, *EXACT, "--output_dir", folder)
    assert ended.code == 0, ended.output
    return folder


def test_kill_anywhere_and_go_on_is_bitwise(start, trainer, small, undisturbed, tmp_path):
    folder = tmp_path / "killed"
    running = start(*small, *EXACT, "--output_dir", folder)
    chance = random.Random(0)
    for step in (1, 5, 8):
        running.wait_for_step(folder, step)
        running.kill()
        assert running.wait().code == -signal.SIGKILL
        assert status(folder)["state"] == "training"
        running = start(*next_argv(folder), "--dataloader_num_workers", chance.choice([0, 1]))
    assert running.wait().code == 0
    assert adapter(folder) == adapter(undisturbed)
    assert stream(folder) == stream(undisturbed)
    assert [row["step"] for row in metrics(folder)] == list(range(1, 13))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_asked_to_stop_it_saves_and_goes_on_exactly(start, trainer, small, undisturbed, tmp_path, number, code):
    folder = tmp_path / "stopped"
    running = start(*small, *EXACT, "--output_dir", folder)
    running.wait_for_step(folder, 3)
    running.kill(number)
    ended = running.wait()
    assert ended.code == code, ended.output
    said = status(folder)
    assert (said["state"], said["exit_code"]) == ("interrupted", code)
    assert (folder / f"checkpoint-{len(metrics(folder))}").is_dir()
    assert trainer(*next_argv(folder)).code == 0
    assert adapter(folder) == adapter(undisturbed)
    assert stream(folder) == stream(undisturbed)


def test_a_complete_run_is_left_alone(trainer, small, undisturbed):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    ended = trainer("--config", undisturbed / "run.toml", "--resume_from_checkpoint", "latest")
    assert ended.code == 0
    assert "Already complete" in ended.output
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before


def test_a_damaged_checkpoint_is_passed_over_aloud(trainer, small, undisturbed, tmp_path):
    newest = undisturbed / "checkpoint-12" / "state.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    expected = adapter(undisturbed)
    ended = trainer("--config", undisturbed / "run.toml", "--resume_from_checkpoint", "latest")
    assert ended.code == 0, ended.output
    assert "checkpoint-12 is passed over" in ended.output
    assert adapter(undisturbed) == expected


@pytest.mark.parametrize("change", [["--learning_rate", "2e-3"], ["--rank", "8"], ["--seed", "1"]])
def test_another_run_is_not_continued(trainer, undisturbed, change):
    ended = trainer("--config", undisturbed / "run.toml", "--resume_from_checkpoint", "latest", *change)
    assert ended.code == 2
    assert change[0].lstrip("-") in ended.output


def test_an_output_folder_in_use_is_refused(trainer, small, undisturbed):
    ended = trainer(*small, *EXACT, "--output_dir", undisturbed)
    assert ended.code == 2
    assert "not empty" in ended.output
    assert status(undisturbed)["state"] == "done"
