"""What is typed wrong is answered at once: exit code 2, a sentence or two, no torch imported, nothing written."""

import ctypes
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import argv as command_line
from pipeline import config
from pipeline.errors import ConfigError
from tests.conftest import prepared

pytestmark = pytest.mark.invariant

# One wrong value for every flag; the words that must stand in the answer.
WRONG: dict[str, tuple[str, str]] = {
    "pretrained_model_name_or_path": ("./nowhere", "does not exist"),
    "pretrained_vae_model_name_or_path": ("./nowhere", "no folder of an autoencoder"),
    "max_sequence_length": ("513", "between 1 and 512"),
    "long_prompts": ("split", "split"),
    "prompt_chunks": ("2", "only with --long_prompts chunks"),
    "clip_skip": ("0", "between 1 and 31"),
    "training_guidance": ("-1", "between 0 and 100"),
    "single_file_config": ("x", "only with a single .safetensors file"),
    "revision": ("main", "only with a Hub id"),
    "variant": ("fp16", "no file of that variant"),
    "prediction_type": ("sample", "sample"),
    "rescale_betas_zero_snr": ("=maybe", "maybe"),
    "train_data_dir": ("nowhere", "does not exist"),
    "dataset_name": ("./nowhere", "does not exist"),
    "dataset_config_name": ("plain", "only with --dataset_name"),
    "evaluation_data_dir": ("nowhere", "does not exist"),
    "validation_split": ("1.5", "between 0 and 0.9"),
    "source": ("photos", "tables [[source]] in the file that --config names"),
    "repeats": ("0", "between 1 and"),
    "image_column": ("photo", "there is file_name"),
    "caption_column": ("title", "there is text"),
    "caption_weights": ("3,many", "holds no numbers, as in 3,1"),
    "caption_template": ("a {colour", "cannot be read"),
    "column_dropout": ("0.1", "only with --caption_template"),
    "caption_extension": ("txt.", "as in '.txt'"),
    "caption_lines": ("split", "split"),
    "masked_loss": ("=maybe", "maybe"),
    "caption_prefix": (" ", "is empty"),
    "caption_suffix": ("", "is empty"),
    "shuffle_tags": ("=maybe", "maybe"),
    "tag_dropout": ("1", "between 0 and 0.99"),
    "keep_tokens": ("2", "only with --shuffle_tags"),
    "caption_separator": ("", "is empty"),
    "caption_variants": ("0", "at least 1"),
    "instance_prompt": (" ", "is empty"),
    "trigger_word": ("ohwx", "lacks the trigger word"),
    "with_prior_preservation": ("=maybe", "maybe"),
    "class_data_dir": ("nowhere", "does not exist"),
    "class_prompt": ("a dog", "only with --with_prior_preservation"),
    "num_class_images": ("0", "between 1 and"),
    "prior_loss_weight": ("2", "only with --with_prior_preservation"),
    "weight_column": ("kind", "no 'kind' (there is text)"),
    "weight_values": ("ink=2", "only with --weight_column"),
    "balance": ("kind", "no 'kind' (there is text)"),
    "max_train_samples": ("0", "at least 1"),
    "resolution": ("67", "multiple of 8; 64"),
    "buckets": ("=maybe", "maybe"),
    "bucket_step": ("12", "multiple of 8; 16"),
    "max_aspect": ("0.5", "between 1 and 16"),
    "upscale": ("=maybe", "maybe"),
    "center_crop": ("=maybe", "maybe"),
    "random_flip": ("=maybe", "maybe"),
    "random_rotation": ("90", "between 0 and 45"),
    "color_jitter": ("1", "between 0 and 0.9"),
    "cache_variants": ("0", "at least 1"),
    "image_interpolation_mode": ("cubic", "cubic"),
    "alpha_background": ("whiteish", "no colour"),
    "on_bad_image": ("ignore", "ignore"),
    "max_image_megapixels": ("0", "at least 1"),
    "missing_caption": ("ignore", "ignore"),
    "encoder_dropout": ("1.5", "between 0 and 1"),
    "prompt_weights": ("ignore", "ignore"),
    "caption_dropout": ("-0.1", "between 0 and 1"),
    "cache_dir": ("LICENSE", "is a file"),
    "dataloader_num_workers": ("-1", "at least 0"),
    "snr_gamma": ("0", "would weigh every loss 0"),
    "loss_weighting": ("minsnr", "minsnr"),
    "normalize_weights": ("=maybe", "maybe"),
    "loss_type": ("l1", "l1"),
    "huber_c": ("0.2", "only with --loss_type huber"),
    "huber_schedule": ("constant", "only with --loss_type huber"),
    "noise_offset": ("2", "between 0 and 1"),
    "multires_noise_iterations": ("-1", "between 0 and 20"),
    "multires_noise_discount": ("0.5", "only with --multires_noise_iterations"),
    "input_perturbation": ("2", "between 0 and 1"),
    "guided_target": ("guidance", "guidance"),
    "guided_target_scale": ("3", "only with --guided_target"),
    "guided_target_against": ("base", "only with --guided_target"),
    "weighting_scheme": ("lognorm", "lognorm"),
    "unmasked_weight": ("0.1", "only with --masked_loss"),
    "unmasked_preservation": ("1", "only with --masked_loss"),
    "preservation_weight": ("-1", "between 0 and 1000"),
    "preservation_prompt": ("a dog", "only with --preservation_weight"),
    "logit_mean": ("30", "between -20 and 20"),
    "logit_std": ("0", "between 0.001 and"),
    "mode_scale": ("2", "between -1 and 1.75"),
    "beta_a": ("0", "between 0.5 and 100"),
    "beta_b": ("0", "between 0.5 and 100"),
    "min_timestep": ("1000", "between 0 and 999"),
    "max_timestep": ("0", "between 1 and 1000"),
    "stratified_timesteps": ("=maybe", "maybe"),
    "timestep_shift": ("0", "between 0.001 and 1000"),
    "rank": ("0", "at least 1"),
    "lora_alpha": ("0", "above 0"),
    "lora_layers": ("to_q,,to_k", "empty name"),
    "train_text_encoder": ("=maybe", "maybe"),
    "text_encoder_layers": ("all", "all"),
    "text_encoder_lr": ("1e-5", "only with --train_text_encoder"),
    "lora_plus_ratio": ("0", "between 0.001 and"),
    "push_to_hub": ("=maybe", "maybe"),
    "hub_model_id": ("a b", "no name of a repository"),
    "hub_token": ("hf_x", "only with --push_to_hub"),
    "data_card": ("nowhere.md", "nowhere.md"),
    "require_data_card": ("=maybe", "maybe"),
    "allow_undocumented_data": ("", "is empty"),
    "init_lora": ("nowhere.safetensors", "does not exist"),
    "rank_pattern": ("to_k=2.5", "whole number"),
    "alpha_pattern": ("to_k", "not layer=n"),
    "use_rslora": ("=maybe", "maybe"),
    "use_dora": ("=maybe", "maybe"),
    "comfyui_rank": ("8", "only with --use_dora"),
    "lora_dropout": ("1", "between 0 and"),
    "lora_init": ("svd", "svd"),
    "optimizer": ("adam", "adam"),
    "use_8bit_adam": ("=maybe", "maybe"),
    "learning_rate": ("0", "above 0"),
    "scale_lr": ("=maybe", "maybe"),
    "lr_scheduler": ("cosin", "cosin"),
    "lr_warmup_steps": ("-1", "at least 0"),
    "lr_num_cycles": ("0", "at least 1"),
    "lr_power": ("-1", "at least 0"),
    "adam_beta1": ("1", "between 0 and"),
    "adam_beta2": ("1", "between 0 and"),
    "adam_weight_decay": ("-1", "at least 0"),
    "adam_epsilon": ("0", "above 0"),
    "max_grad_norm": ("0", "at least"),
    "use_ema": ("=maybe", "maybe"),
    "ema_decay": ("1", "between 0 and"),
    "output_dir": ("LICENSE", "is a file"),
    "overwrite_output_dir": ("=maybe", "maybe"),
    "resume_from_checkpoint": ("nowhere", "does not exist"),
    "seed": ("one", "one"),
    "train_batch_size": ("0", "at least 1"),
    "gradient_accumulation_steps": ("0", "at least 1"),
    "max_train_steps": ("0", "at least 1"),
    "num_train_epochs": ("0", "at least 1"),
    "gradient_checkpointing": ("=maybe", "maybe"),
    "compile": ("=maybe", "maybe"),
    "base_quantization": ("int4", "int4"),
    "offload_base": ("=maybe", "maybe"),
    "cuda_graphs": ("always", "always"),
    "mixed_precision": ("fp8", "fp8"),
    "allow_tf32": ("=maybe", "maybe"),
    "deterministic": ("=maybe", "maybe"),
    "checkpointing_steps": ("0", "at least 1"),
    "checkpoints_total_limit": ("0", "at least 1"),
    "keep": ("first", "first"),
    "early_stopping_patience": ("0", "at least 1"),
    "report_to": ("wandbee", "there are aim"),
    "logging_dir": ("/tmp/logs", "inside the output folder"),
    "validation_prompt": ("", "is empty"),
    "num_validation_images": ("-1", "at least 0"),
    "validation_epochs": ("0", "at least 1"),
    "validation_steps": ("0", "at least 1"),
    "validation_size": ("832", "no width x height, as in 832x1216"),
    "guidance_scale": ("-1", "at least 0"),
    "guidance_method": ("cfgs", "cfgs"),
    "guidance_against": ("null", "null"),
    "guidance_interval": ("3,0.3", "the lower first, as in 0.28,5.42"),
    "guidance_rescale": ("2", "between 0 and 1"),
    "apg_eta": ("0.5", "only with --guidance_method apg"),
    "apg_norm": ("0", "must be a finite number above 0"),
    "apg_momentum": ("1", "between -0.99 and 0.99"),
    "cads_scale": ("-1", "between 0 and 10"),
    "num_inference_steps": ("0", "between 1 and"),
    "clip_model_name_or_path": ("./nowhere", "no folder of a CLIP model"),
    "config": ("nowhere.toml", "no such file"),
    "recipe": ("sculpture", "not a shipped recipe"),
    "dry_run": ("=maybe", "maybe"),
    "debug": ("=maybe", "maybe"),
}
ALL_FLAGS = sorted({field.name for section in config.Run().sections for field in dataclasses.fields(section)})

RUNNER = """
import contextlib, io, json, sys
import train_lora
for argv in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = train_lora.main(argv)
    print(json.dumps({"code": code, "said": said.getvalue(), "torch": "torch" in sys.modules}))
"""


def answers(argvs: list[list[str]], **how: Any) -> list[dict]:
    """Every command line in one process, in which nothing heavy may ever be imported."""
    ended = subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps(argvs), capture_output=True, text=True, check=True, **how
    )
    return [json.loads(line) for line in ended.stdout.splitlines()]


def require_a_sentence(argv: list[str], answer: dict, said: str) -> None:
    assert answer["code"] == 2, (argv, answer)
    assert said in answer["said"], (argv, answer)
    assert "Traceback" not in answer["said"]
    assert not answer["torch"], argv
    text = answer["said"].removeprefix("Error: ").split("\n  - ")[0]
    assert 0 < len(text) < 300, (argv, answer)


def test_every_flag_has_a_wrong_value_here():
    assert set(ALL_FLAGS) | {"config", "recipe", "dry_run", "debug"} == set(WRONG)
    documented = Path("docs/flags.md").read_text(encoding="utf-8")
    assert all(f"`--{name}" in documented for name in WRONG)


def test_a_wrong_value_of_every_flag_is_answered_at_once(colours, miniature, tmp_path):
    argvs = []
    for name, (value, _) in WRONG.items():
        others = {"output_dir": str(tmp_path / "out"), "pretrained_model_name_or_path": str(miniature)}
        if name not in ("dataset_name", "train_data_dir"):
            others["train_data_dir"] = str(colours)
        others.pop(name, None)
        wrong = [f"--{name}{value}"] if value.startswith("=") else [f"--{name}", value]
        argvs.append([*(word for key, given in others.items() for word in (f"--{key}", given)), *wrong])
    for argv, answer, (_, said) in zip(argvs, answers(argvs), WRONG.values(), strict=True):
        require_a_sentence(argv, answer, said)
    assert not (tmp_path / "out").exists()


def test_mistakes_of_users_are_answered_at_once(colours, miniature, tmp_path):
    (tmp_path / "empty").mkdir()
    nested = tmp_path / "folders" / "of" / "folders"
    nested.mkdir(parents=True)
    used = tmp_path / "used"
    used.mkdir()
    (used / "thesis.txt").write_text("mine")
    mistakes = [
        (["--train_data_dir", "gone"], "does not exist"),
        (["--train_data_dir", "README.md"], "is a file"),
        (["--train_data_dir", str(tmp_path / "empty")], "holds no usable image"),
        (["--train_data_dir", str(tmp_path / "folders")], "holds no usable image"),
        (["--caption_column", "title"], "there is text"),
        (["--output_dir", "LICENSE/out"], "cannot be written"),
        (["--output_dir", str(used)], "is not empty"),
        (["--resolution", "100"], "multiple of 8"),
        (["--rank", "0"], "at least 1"),
        (["--lr_scheduler", "exponential"], "exponential"),
        (["--dataset_name", "user/pets", "--train_data_dir", str(colours)], "two sources of data"),
        (["--pretrained_model_name_or_path", str(colours)], "no model_index.json"),
        (["--pretrained_model_name_or_path", "README.md"], "is a file"),
    ]
    argvs = []
    for wrong, _ in mistakes:
        good = {"train_data_dir": str(colours), "pretrained_model_name_or_path": str(miniature)}
        good["output_dir"] = str(tmp_path / "out")
        kept = {name: value for name, value in good.items() if f"--{name}" not in wrong}
        argvs.append([*(word for name, value in kept.items() for word in (f"--{name}", value)), *wrong])
    for argv, answer, (_, said) in zip(argvs, answers(argvs), mistakes, strict=True):
        require_a_sentence(argv, answer, said)
    assert (used / "thesis.txt").read_text() == "mine"


def as_anyone() -> None:
    """Take from root what lets it write anywhere: CAP_DAC_OVERRIDE, out of the bounding set."""
    if os.geteuid() == 0:
        assert ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) == 0, "root without CAP_SETPCAP"


def test_a_folder_without_the_right_to_write(colours, miniature, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    argv = ["--train_data_dir", str(colours), "--pretrained_model_name_or_path", str(miniature)]
    argv += ["--output_dir", str(tmp_path / "locked" / "out")]
    require_a_sentence(argv, answers([argv], preexec_fn=as_anyone)[0], "is not writable")


def test_all_that_a_parser_does_not_take_is_said_at_once():
    argv = [
        "--network_dim",
        "16",
        "--lr_scheduler",
        "foo",
        "--max_train_steps=abc",
        "--learning_rat",
        "3",
        "--rank",
        "2",
    ]
    with pytest.raises(ConfigError) as error:
        config.parse([*argv, "--rank", "3", "--vae", "x"])
    said = str(error.value).splitlines()
    assert len(said) == 6
    for words in (
        "Unknown option: --network_dim. Here it is --rank.",
        'Invalid value "foo" for --lr_scheduler. Choose from: "constant", ',
        "--max_train_steps 'abc' must be a whole number.",
        "Unknown option: --learning_rat. Did you mean --learning_rate?",
        "--rank takes one value, given '2' and '3'; keep one.",
        "Unknown option: --vae. Here it is --pretrained_vae_model_name_or_path.",
    ):
        assert any(line.startswith(words) for line in said), (words, said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--learning_rate", "fast"], "--learning_rate 'fast' must be a number."),
        (["--train_batch_size", "automatic"], "--train_batch_size 'automatic' must be a whole number, or auto."),
        (["--rank", "two words"], "--rank 'two words' must be a whole number."),
    ],
)
def test_what_is_no_number_is_told_without_types_of_python(words, said):
    with pytest.raises(ConfigError) as error:
        config.parse(words)
    assert str(error.value) == said


def test_what_others_call_options_points_at_flags_that_exist():
    known = {f"--{name}" for name in ALL_FLAGS}
    assert not set(command_line.OF_OTHERS) & set(ALL_FLAGS)
    for meant in command_line.OF_OTHERS.values():
        assert set(re.findall(r"--\w+", meant)) - {"--help"} <= known, meant


def test_an_output_folder_that_is_a_broken_link(tmp_path, colours):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"link is a link to .*nowhere, which is not there; make it first"):
        prepared(["--train_data_dir", str(colours), "--output_dir", str(tmp_path / "link")], tmp_path / "link")
