"""Invariant 2: the number of processes and of micro-steps changes nothing, and a process that dies is missed."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import COLUMNS, dedupe, make_shapes, metrics, replaced, status
from tests.running import World, wait_until

pytestmark = pytest.mark.invariant
FILE = "pytorch_lora_weights.safetensors"
TWO = [
    sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu_2proc.yaml",
]  # fmt: skip
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def losses(folder: Path) -> list[tuple]:
    return [(row["step"], row["loss"], row["learning_rate"], row["grad_norm"], row["ids"]) for row in metrics(folder)]


KINDS = {
    "dropout and held-out loss": ["--lora_dropout", "0.2", "--validation_split", "0.5", "--validation_steps", "6",
        "--num_validation_images", "0", "--guided_target", "model_guidance", "--guided_target_against", "live",
        "--stratified_timesteps", "--multires_noise_iterations", "4",
    ],
    "DoRA, EMA and text encoders": [
        "--caption_separator", " ", "--shuffle_tags", "--tag_dropout", "0.3",
        "--use_dora", "--use_ema", "--ema_decay", "0.9", "--train_text_encoder", "--max_train_steps", "6",
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_do_bit_for_bit_what_one_does_in_two_micro_steps(
    trainer, world, small, miniature_of, tmp_path, kind
):
    """With two text encoders, each of which now and then reads nothing, so that a process lacks its gradient."""
    shapes = make_shapes(tmp_path / "shapes", in_columns=True)
    flags = replaced(small, pretrained_model_name_or_path=miniature_of("sdxl"), train_data_dir=shapes)
    dropped = ["--caption_dropout", "0.3", "--encoder_dropout", "0.4", *COLUMNS]
    flags = dedupe([*flags, "--random_flip", *dropped, *KINDS[kind]])
    two, one = tmp_path / "two", tmp_path / "one"
    first, second = world(2, *flags, "--output_dir", two)
    assert (first.code, second.code) == (0, 0), first.output + second.output
    assert "(2 per micro-step x 1 x 2 processes)" in first.output
    assert (first.output + second.output).count("Adapter verified") == 1
    assert trainer(*flags, "--gradient_accumulation_steps", "2", "--output_dir", one).code == 0
    assert (two / FILE).read_bytes() == (one / FILE).read_bytes()
    assert losses(two) == losses(one)
    assert len({tuple(row["size"].values()) for row in metrics(two)}) >= 3  # one in each step, over all processes
    parts = [[set(rank["ids"]) for rank in row["ranks"]] for row in metrics(two)]
    assert sum(first != second for first, second in parts) > len(parts) / 2  # a bucket of two may show both to both
    for row in metrics(two):
        assert len({rank["pid"] for rank in row["ranks"]}) == 2
        assert [len(rank["ids"]) for rank in row["ranks"]] == [2, 2]
        assert sorted(row["ids"]) == sorted(name for rank in row["ranks"] for name in rank["ids"])


def test_whatever_a_step_is_made_of_the_adapter_is_the_same(trainer, world, small, tmp_path):
    """Four examples at once, one at a time, and two by each of two processes; six, and two by each of three."""
    # Adam divides by a gradient's own size: where that is mere rounding, so would the step be.
    flags = [*replaced(small, max_train_steps=4), "--random_flip", "--adam_epsilon", "1e-5"]

    def trained(batch: int, accumulation: int, num_processes: int = 1) -> tuple[dict[str, torch.Tensor], list[dict]]:
        out = tmp_path / f"{batch} x {accumulation} x {num_processes}"
        words = [*replaced(flags, train_batch_size=batch), "--gradient_accumulation_steps", accumulation]
        ended = world(num_processes, *words, "--output_dir", out)
        assert {process.code for process in ended} == {0}, ended[0].output
        return load_file(out / FILE), metrics(out)

    for reference, *others in (((4, 1), (1, 4), (2, 1, 2)), ((6, 1), (2, 1, 3))):
        tensors, rows = trained(*reference)
        for other in others:
            found, steps = trained(*other)
            assert found.keys() == tensors.keys()
            assert all(torch.allclose(found[name], value, rtol=0, atol=1e-5) for name, value in tensors.items()), other
            for key, tolerance in (("loss", {"abs": 1e-5}), ("grad_norm", {"rel": 1e-3})):
                assert [row[key] for row in steps] == pytest.approx([row[key] for row in rows], **tolerance)
            assert [sorted(row["ids"]) for row in steps] == [sorted(row["ids"]) for row in rows]
        assert all(value.abs().max() > 1e-3 for name, value in tensors.items() if ".lora_B." in name)


def test_a_mistake_is_answered_once(small, tmp_path):
    """The first process looks at the folder; the other waits for it until the launcher ends it.

    With SIGKILL in the end: a process that waits for the first in torch's store hears no other signal.
    """
    flags = [*small, "--output_dir", str(tmp_path / "out"), "--resume_from_checkpoint", "nowhere"]
    first, second = World(2, flags, tmp_path / "log").processes
    said = first.wait()
    second.kill()
    assert said.code == 2
    assert said.output.count("Error: --resume_from_checkpoint nowhere") == 1
    assert "Error" not in second.wait().output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_process_is_killed_the_other_says_so_and_the_run_goes_on_exactly(
    trainer, world, finished_run, small, tmp_path, victim
):
    """The first process, which writes everything, under accelerate's launcher; the other one without."""
    length = ["--max_train_steps", "24"]
    out, whole = tmp_path / "out", finished_run(*length, "--gradient_accumulation_steps", "2")
    flags = [*dedupe([*small, *length, "--checkpointing_steps", "5", "--checkpoints_total_limit", "2"])]
    flags += ["--output_dir", str(out)]
    said = kill_in_the_launcher(flags, out, tmp_path) if victim == 0 else kill_the_second(flags, out, tmp_path)
    assert "Another process of this run is gone" in said
    assert (status(out)["state"], status(out)["exit_code"]) == ("failed", 1)
    assert 8 <= status(out)["step"] <= len(metrics(out)) + 1  # whoever says it knows how far they were
    alone = trainer("--config", out / "run.toml", "--resume_from_checkpoint", "latest")
    assert alone.code == 2  # half the examples a step would be another run
    assert "global_batch: 4 then, 2 now" in alone.output
    assert 8 < len(metrics(out)) < 24
    resumed = world(2, "--config", out / "run.toml", "--resume_from_checkpoint", "latest")
    assert [process.code for process in resumed] == [0, 0], resumed[0].output
    assert (out / FILE).read_bytes() == (whole / FILE).read_bytes()


def kill_in_the_launcher(flags: list[str], out: Path, tmp_path: Path) -> str:
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*TWO, "train_lora.py", *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT
        )
        wait_until(lambda: (out / "metrics.jsonl").is_file() and len(metrics(out)) > 8)
        os.kill(metrics(out)[0]["ranks"][0]["pid"], signal.SIGKILL)
        assert process.wait(600) == 1
    again = status(out)["next_command"]
    assert again.startswith(f"accelerate launch {shlex.join(TWO[3:])} train_lora.py")
    return (tmp_path / "log").read_text()


def kill_the_second(flags: list[str], out: Path, tmp_path: Path) -> str:
    first, second = World(2, flags, tmp_path / "log").processes
    first.wait_for_step(out, 9)
    second.kill()
    assert second.wait().code == -signal.SIGKILL
    ended = first.wait()
    assert ended.code == 1, ended.output
    return ended.output
