"""Invariant 3 for every optimizer: a run that goes on from its middle ends with the bytes of an undisturbed one."""

import shutil

import pytest

from pipeline.training.optim import BUILDERS
from tests.conftest import metrics, replaced

pytestmark = pytest.mark.invariant


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_each_goes_on_exactly(trainer, small, tmp_path, name):
    flags = replaced(small, rank=32, max_train_steps=6)  # so wide that some layers get eight-bit moments
    at = flags.index("--learning_rate")
    flags[at : at + 2] = ["--optimizer", name, "--checkpointing_steps", "3", "--validation_split", "0.5"]
    flags = replaced(flags, num_validation_images=0)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ended = trainer(*flags, "--output_dir", whole)
    assert ended.code == 0, ended.output
    cut.mkdir()
    shutil.copytree(whole / "checkpoint-3", cut / "checkpoint-3")
    shutil.copy(whole / "metrics.jsonl", cut)
    ended = trainer(*flags, "--output_dir", cut, "--resume_from_checkpoint", "latest")
    assert ended.code == 0, ended.output
    first, second = ((folder / "pytorch_lora_weights.safetensors").read_bytes() for folder in (whole, cut))
    assert first == second
    seconds = {"seconds": 0}
    assert [{**row, **seconds} for row in metrics(whole)] == [{**row, **seconds} for row in metrics(cut)]
    assert ("adapted_rate" in metrics(whole)[0]) == (name == "prodigy")
