"""What would be refused after the base has drawn its class for minutes is refused before."""

import shutil

import pytest

from tests.conftest import dedupe, replaced
from tests.running import Running

pytestmark = pytest.mark.invariant
PRIOR = ["--with_prior_preservation", "--class_prompt", "a square", "--num_class_images", "12"]


def held_by_another():
    """In a run's process: whatever folder it asks for, another run is in it."""
    from pipeline.run import output_folder

    output_folder.atomic.hold_folder = lambda folder, patience: False


def test_a_refused_folder_is_refused_before_anything_is_drawn(small, tmp_path, trainer):
    out, drawn = tmp_path / "out", tmp_path / "cache" / "encoded" / "class"
    own = replaced(small, cache_dir=tmp_path / "cache", num_validation_images=0, max_train_steps=2)
    flags = [*own, *PRIOR, "--checkpointing_steps", "1"]
    assert trainer(*flags, "--output_dir", out).code == 0
    resumed = [*flags, "--output_dir", out, "--resume_from_checkpoint", out / "checkpoint-1"]
    for other, said in (
        (["--prior_loss_weight", "0.5"], "prior_loss_weight: 1.0 then, 0.5 now"),
        (["--num_inference_steps", "3"], "num_inference_steps: 2 then, 3 now"),
        (["--class_prompt", "a circle", "--seed", "1"], "seed: 0 then, 1 now"),
    ):
        shutil.rmtree(drawn)
        ended = trainer(*dedupe([*resumed, *other]))
        assert ended.code == 2
        assert said in ended.output
        assert "dataset:" not in ended.output
        assert "Drawing" not in ended.output
        drawn.mkdir()
    ended = Running([*map(str, resumed)], tmp_path / "log", prepared=held_by_another).wait()
    assert ended.code == 2
    assert "Another run does not stop writing" in ended.output
    assert not list(drawn.iterdir())
