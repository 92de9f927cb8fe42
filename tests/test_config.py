import dataclasses
import re
import subprocess
import sys
import tomllib
from typing import get_args

import pytest

from pipeline import argv as command_line
from pipeline import config, shipped
from pipeline.errors import ConfigError

pytestmark = pytest.mark.unit

DIFFUSERS = [
    "pretrained_model_name_or_path",
    "revision",
    "variant",
    "dataset_name",
    "dataset_config_name",
    "train_data_dir",
    "image_column",
    "caption_column",
    "validation_prompt",
    "num_validation_images",
    "validation_epochs",
    "max_train_samples",
    "output_dir",
    "cache_dir",
    "seed",
    "resolution",
    "center_crop",
    "random_flip",
    "train_batch_size",
    "num_train_epochs",
    "max_train_steps",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "learning_rate",
    "scale_lr",
    "lr_scheduler",
    "lr_warmup_steps",
    "snr_gamma",
    "use_8bit_adam",
    "allow_tf32",
    "dataloader_num_workers",
    "adam_beta1",
    "adam_beta2",
    "adam_weight_decay",
    "adam_epsilon",
    "max_grad_norm",
    "push_to_hub",
    "hub_token",
    "prediction_type",
    "hub_model_id",
    "logging_dir",
    "mixed_precision",
    "report_to",
    "local_rank",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "resume_from_checkpoint",
    "enable_xformers_memory_efficient_attention",
    "noise_offset",
    "rank",
    "image_interpolation_mode",
]


def test_every_flag_of_diffusers_script_is_taken_or_refused_with_an_alternative():
    known = config.Run().flat().keys() | command_line.REFUSED.keys()
    assert set(DIFFUSERS) <= known
    assert config.Run().flat().keys() & command_line.REFUSED.keys() == {"source"}  # only a table of run.toml
    for name, sentence in command_line.REFUSED.items():
        with pytest.raises(ConfigError, match=re.escape(sentence)):
            config.parse([f"--{name}", "x"])


def test_a_run_survives_its_toml(tmp_path):
    run = config.Run().replaced(
        learning_rate=3e-4, validation_prompt=('a "quoted"\nprompt', "日本"), random_flip=True, seed=7, output_dir="x y"
    )
    path = tmp_path / "run.toml"
    path.write_text(run.to_toml(), encoding="utf-8")
    assert config.parse(["--config", str(path), "--pretrained_model_name_or_path", "m"]).run == run.replaced(
        pretrained_model_name_or_path="m"
    )
    assert tomllib.loads(run.to_toml())["learning_rate"] == 3e-4


def test_a_flag_wins_over_the_file_and_the_file_over_the_recipe(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("learning_rate = 5e-4\nrank = 3\n")
    run = config.parse(["--config", str(path), "--recipe", "starter", "--rank", "9"]).run
    assert (run.optim.learning_rate, run.adapter.rank, run.train.train_batch_size) == (5e-4, 9, 8)
    assert config.parse(["--pretrained_model_name_or_path", "m"]).run.train.train_batch_size == 4
    assert config.parse(["--config", str(path)]).run.train.max_train_steps is None  # a file stands for itself
    assert config.parse(["--num_train_epochs", "2"]).run.train.max_train_steps is None
    assert (
        config.parse([]).run.train.max_train_steps
        == tomllib.loads(shipped.recipe("starter").read_text())["max_train_steps"]
    )


def test_what_is_no_number_is_refused_for_every_option_that_is_one():
    fields = [field for section in config.Run().sections for field in dataclasses.fields(section)]
    names = [field.name for field in fields if float in (get_args(field.type) or (field.type,))]
    endless = ("snr_gamma", "timestep_shift", "lora_alpha")  # as which the loss is no number either
    given = [*((name, "nan") for name in names), *((name, "inf") for name in endless)]
    taken = [
        (name, value)
        for name, value in given
        if not any(f"--{name} is " in said for said in config.Run().replaced(**{name: float(value)}).problems())
    ]
    assert len(names) > 20
    assert taken == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--learning_rat", "1"], "--learning_rate"),
        (["--resol", "64"], "--resolution"),
        (["--resolution", "abc"], "abc"),
        (["--lr_scheduler", "cosin"], "cosin"),
        (["extra"], "extra"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
        (["--config"], "--config"),
        (["--recipe", "sculpture"], "starter"),
        (["--rank", "0"], "at least 1"),
        (["--snr_gamma", "0"], "--snr_gamma"),
        (["--learning_rate", "nan"], "--learning_rate"),
        (["--max_grad_norm", "0"], "--max_grad_norm"),
        (["--caption_dropout", "1.5"], "between 0 and 1"),
        (["--report_to", "wandbee"], "tensorboard"),
        (["--overwrite_output_dir", "--resume_from_checkpoint", "latest"], "give one"),
        (["--validation_epochs", "1", "--validation_steps", "1"], "give one"),
    ],
)
def test_mistakes_are_answered(argv, said):
    with pytest.raises(ConfigError) as error:
        config.parse(argv)
    assert said in str(error.value)
    assert len(str(error.value)) < 400


def test_all_values_out_of_bounds_are_named_at_once():
    with pytest.raises(ConfigError) as error:
        config.parse(["--rank", "0", "--train_batch_size", "-1", "--snr_gamma", "-2"])
    assert all(name in str(error.value) for name in ("--rank", "--train_batch_size", "--snr_gamma"))


@pytest.mark.parametrize(
    ("text", "said"),
    [("ranks = 3", "--rank"), ("[lora]\nrank = 3", "flat"), ("rank = ", "TOML"), ('rank = "many"', "many")],
)
def test_mistakes_in_a_file_are_answered(tmp_path, text, said):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        config.parse(["--config", str(path)])
    assert said in str(error.value)


def test_every_option_is_documented_and_unique():
    names = [field.name for section in config.Run().sections for field in dataclasses.fields(section)]
    assert len(names) == len(set(names))
    assert len(names) < 175  # 126 but for the objective, the text, guidance and how steps are executed


HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate", "datasets", "huggingface_hub", "scipy"}
IMPORTED = """
import contextlib, io, sys, train_lora
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    code = train_lora.main(sys.argv[1:])
print(code, *sys.modules)
"""


@pytest.mark.parametrize(("argv", "code"), [(["--help"], 0), (["--learning_rat"], 2), (["--rank", "0"], 2)])
def test_help_and_a_wrong_flag_import_nothing_heavy(argv, code):
    """What they cost is what they import: importing torch alone brings over a thousand modules."""
    ended = subprocess.run([sys.executable, "-c", IMPORTED, *argv], capture_output=True, text=True, check=True)
    found, *modules = ended.stdout.split()
    assert int(found) == code
    assert not HEAVY & {name.partition(".")[0] for name in modules}
    assert len(modules) < 600  # 474 when this was written


@pytest.mark.parametrize("name", ["character", "concept", "starter", "style", "subject"])
def test_every_recipe_is_a_complete_run(name):
    run = config.parse(["--recipe", name, "--pretrained_model_name_or_path", "m"]).run
    text = shipped.recipe(name).read_text(encoding="utf-8")
    assert text.startswith("# ")
    given = tomllib.loads(text)
    assert all(run.flat()[key] == value for key, value in given.items())
    assert config.parse(["--recipe", name, "--rank", "3", "--pretrained_model_name_or_path", "m"]).run.adapter.rank == 3
    assert config.parse(["--recipe", name, "--snr_gamma", "none"]).run.objective.snr_weighting is None


def test_a_token_is_written_nowhere():
    assert "swordfish" not in config.Run().replaced(hub_token="swordfish", hub_model_id="user/model").to_toml()
