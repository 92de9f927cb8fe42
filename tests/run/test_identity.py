"""A checkpoint of an earlier or a later version: gone on from where that is exact, else refused with the reason."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline import config
from pipeline.run.identity import CAME_LATER, NOT_IDENTITY
from pipeline.training import checkpoint

pytestmark = pytest.mark.invariant
FILE = "pytorch_lora_weights.safetensors"
RUN = ["--checkpointing_steps", "6", "--random_flip"]
# What the first checkpoints that can be gone on from name: those of pictures in buckets.
FIRST = {
    "adam_beta1", "adam_beta2", "adam_epsilon", "adam_weight_decay", "allow_tf32", "alpha_background", "alpha_pattern",
    "bucket_step", "buckets", "cache_variants", "caption_dropout", "caption_prefix", "caption_separator",
    "caption_suffix", "caption_variants", "center_crop", "ema_decay", "gradient_accumulation_steps",
    "image_interpolation_mode", "keep_tokens", "learning_rate", "logit_mean", "logit_std", "lora_alpha",
    "lora_dropout", "lora_init", "lora_layers", "lora_plus_ratio", "lr_num_cycles", "lr_power", "lr_scheduler",
    "lr_warmup_steps", "masked_loss", "max_aspect", "max_grad_norm", "max_sequence_length", "mixed_precision",
    "mode_scale", "noise_offset", "optimizer", "preservation_prompt", "preservation_weight", "random_flip", "rank",
    "rank_pattern", "resolution", "scale_lr", "seed", "shuffle_tags", "snr_gamma", "tag_dropout",
    "text_encoder_layers", "text_encoder_lr", "timestep_shift", "train_batch_size", "train_text_encoder",
    "unmasked_preservation", "unmasked_weight", "upscale", "use_8bit_adam", "use_dora", "use_ema", "use_rslora",
    "weighting_scheme",
}  # fmt: skip


def test_every_option_that_came_later_says_what_its_absence_meant():
    """The golden trajectories show that a default computes what was computed without the option."""
    options = config.Run().flat()
    assert options.keys() - NOT_IDENTITY == FIRST | CAME_LATER.keys()
    assert {name: options[name] for name in CAME_LATER} == CAME_LATER


@pytest.fixture
def half(finished_run, tmp_path):
    """A copy of a run that has come half the way, the flags that go on with it, and what it would end with."""
    whole = finished_run(*RUN)
    folder = Path(shutil.copytree(whole, tmp_path / "half", ignore=shutil.ignore_patterns("checkpoint-12")))
    (folder / FILE).unlink()
    flags = ["--config", str(folder / "run.toml"), "--output_dir", str(folder), "--resume_from_checkpoint", "latest"]
    return folder, flags, (whole / FILE).read_bytes()


def rewrite(folder: Path, change) -> None:
    """Change the recorded identity of its checkpoint, as another version would have written it."""
    path = folder / "checkpoint-6"
    facts = json.loads((path / checkpoint.FACTS).read_text())
    del facts["digest"]
    change(facts["identity"])
    facts["digest"] = checkpoint._digest(facts, path)
    (path / checkpoint.FACTS).write_text(json.dumps(facts))


def forget(identity: dict) -> None:
    """As before any option that came later, and before what does not apply was recorded."""
    for name in [*CAME_LATER, *(name for name, value in identity.items() if value is None)]:
        identity.pop(name, None)


def test_a_checkpoint_from_before_an_option_is_gone_on_from_exactly(trainer, half):
    folder, flags, expected = half
    rewrite(folder, forget)
    ended = trainer(*flags)
    assert ended.code == 0, ended.output
    assert "Resuming from" in ended.output
    assert (folder / FILE).read_bytes() == expected


def test_an_option_that_it_does_not_know_is_refused_where_it_is_set(trainer, half):
    folder, flags, _ = half
    rewrite(folder, forget)
    ended = trainer(*flags, "--color_jitter", "0.1")
    assert ended.code == 2
    assert "color_jitter: 0.0 then by a version without this option, 0.1 now" in ended.output
    assert "random_rotation" not in ended.output


def test_what_a_later_version_has_recorded_is_refused(trainer, half):
    folder, flags, _ = half
    rewrite(folder, lambda identity: identity.update(brush_size=3))
    ended = trainer(*flags)
    assert ended.code == 2
    assert "was made by another version of this program" in ended.output
    assert "brush_size: 3 then, which is unknown to this version" in ended.output
    assert not (folder / FILE).exists()
