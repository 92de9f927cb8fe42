"""The words of a command line: one flag however it is spelled, and one sentence for each word that is wrong."""

import os
from pathlib import Path

import pytest

from pipeline import argv, config
from pipeline.errors import ConfigError

pytestmark = pytest.mark.unit
MODEL = ["--pretrained_model_name_or_path", "user/model"]


def parsed(*words: str):
    return config.parse([*words]).run


@pytest.mark.parametrize(
    "words",
    [
        ["--pretrained-model-name-or-path", "user/model", "--num-train-epochs", "2", "--random-flip"],
        ["--pretrained_model-name_or-path=user/model", "--num-train-epochs=2", "--random_flip"],
    ],
)
def test_dashes_and_underscores_are_one(words):
    assert parsed(*words) == parsed(*MODEL, "--num_train_epochs", "2", "--random_flip")


def test_a_negated_flag_too():
    assert parsed("--no-center-crop") == parsed("--no_center_crop") == parsed("--no-center_crop")
    assert not parsed("--no-center-crop").data.center_crop


def test_the_starter_recipe_is_for_those_who_name_no_model_however_they_spell_it():
    assert parsed("--pretrained-model-name-or-path", "user/model").optim.learning_rate is None
    assert parsed("--num-train-epochs", "2").train.max_train_steps is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--lr_warmup_steps", "0.1"], "--lr_warmup_steps 0.1 must be a whole number."),
        (["--max-train-steps=10.7"], "--max_train_steps 10.7 must be a whole number."),
        (["--random_flip", "true"], "give --random_flip or --no-random_flip, without 'true'."),
        (["--validation_prompt", "-dash"], "is written --validation_prompt='-dash'."),
        (["--validation_prompt", "a", "b", "c"], "'b', 'c' after --validation_prompt 'a'"),
        (["--output_dir", "my", "folder"], "'folder' after --output_dir 'my': put text with spaces in quotes."),
        (["--rank", "=", "3"], "write --rank=3."),
        (["--seed", "1", "\N{EM DASH}rank", "3"], "begins with a long dash; flags begin with two hyphens"),
        (["--rank", "--random_flip"], "--rank needs a value after it."),
        (["--rank"], "--rank needs a value after it."),
        (["folder"], "'folder' belongs to no flag."),
    ],
)
def test_each_wrong_word_has_its_sentence(words, sentence):
    with pytest.raises(ConfigError) as refused:
        config.parse(words)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--train_data_dir", "a", "--instance_data_dir", "b"],
            "--train_data_dir and --instance_data_dir are one flag, given 'a' and 'b'; keep one.",
        ),
        (
            ["--instance-data-dir=b", "--seed", "1", "--train_data_dir=a"],
            "--instance-data-dir and --train_data_dir are one flag, given 'b' and 'a'; keep one.",
        ),
        (["--rank", "4", "--rank=8", "--rank", "9"], "--rank takes one value, given '4', '8' and '9'; keep one."),
        (
            ["--logit_mean", "-0.5", "--logit_mean", ".3"],
            "--logit_mean takes one value, given '-0.5' and '.3'; keep one.",
        ),
        (
            ["--random_flip", "--no-random_flip"],
            "--random_flip and --no-random_flip say the opposite of each other; keep one.",
        ),
        (["--no-random-flip", "--no_random_flip"], "--no-random-flip and --no_random_flip are one flag; keep one."),
        (["--dry_run", "--dry_run"], "--dry_run is given 2 times; keep one."),
        (["--config", "a.toml", "--config", "b.toml"], "--config takes one value, given 'a.toml' and 'b.toml'; keep"),
    ],
)
def test_a_flag_given_twice_is_told_so_with_both_values(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.toml").write_text("rank = 3\n")
    with pytest.raises(ConfigError) as refused:
        config.parse(words)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_flag_that_takes_several_may_be_given_twice():
    run = parsed(*MODEL, "--validation_prompt", "a", "--validation_prompt", "b")
    assert run.preview.validation_prompt == ("a", "b")


def test_all_wrong_words_are_named_at_once():
    with pytest.raises(ConfigError, match=r"(?s)--rank 1\.5 .*'x' after --output_dir"):
        config.parse(["--rank", "1.5", "--output_dir", "out", "x"])


@pytest.mark.parametrize("words", [["--noise_offset", "0.1"], ["--validation_prompt=-dash"], ["--logit_mean", "-0.5"]])
def test_what_is_right_is_let_through(words):
    assert config.parse([*MODEL, *words]) is not None


def test_a_fraction_in_a_file_is_no_whole_number_either(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("max_train_steps = 10.7\n")
    with pytest.raises(ConfigError, match=r"run\.toml: max_train_steps = 10\.7 must be a whole number"):
        config.parse(["--config", str(path)])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train_data_dir = 1\ninstance_data_dir = 2", "given train_data_dir = 1 and instance_data_dir = 2; keep one."),
        ("random-flip = true\nrandom_flip = true", "random-flip and random_flip are one option, given"),
        (
            '[[source]]\ntrain-data-dir = "a"\ninstance_data_dir = "b"',
            "[[source]]: train-data-dir and instance_data_dir",
        ),
        ("no_random_flip = true", "no_random_flip is only for the command line; write random_flip = false."),
    ],
)
def test_an_option_has_one_name_in_a_file(tmp_path, text, sentence):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        config.parse(["--config", str(path)])
    assert sentence in str(refused.value)
    path.write_text("random-flip = true\n")
    assert parsed("--config", str(path)).data.random_flip


def test_the_home_folder_is_expanded_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    names = sorted(config.PATHS - {"dataset_name"})  # which goes with no train_data_dir
    flat = config.Run().replaced(**{name: f"~/{name}" for name in names}).expanded().flat()
    assert {name: flat[name] for name in names} == {name: str(tmp_path / name) for name in names}
    (tmp_path / "run.toml").write_text('output_dir = "~/out"\n')
    assert parsed("--config", "~/run.toml").train.output_dir == str(tmp_path / "out")
    assert parsed("--output_dir=~/x").train.output_dir == str(tmp_path / "x")
    assert argv.with_home(["export", "~/a", "--to=~/b", "c~"]) == [
        "export",
        f"{tmp_path}/a",
        f"--to={tmp_path}/b",
        "c~",
    ]


def test_every_option_that_names_a_place_is_a_path():
    text = {name for name, kind in config.KINDS.items() if kind == "value"}
    places = {name for name in text if name.endswith(("_dir", "_path", "_config", "_file"))}
    assert places <= config.PATHS


def test_words_that_are_no_text_are_refused(monkeypatch):
    odd = os.fsdecode(b"caf\xe9")
    with pytest.raises(ConfigError, match=r"not UTF-8\. Give text as UTF-8"):
        config.parse(["--validation_prompt", odd])
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    with pytest.raises(ConfigError, match="PYTHONUTF8=1"):
        config.parse(["--validation_prompt", odd])


def test_a_moved_run_is_not_started_again_where_it_was(tmp_path):
    moved = tmp_path / "moved"
    (moved / "checkpoint-4").mkdir(parents=True)
    (moved / "status.json").write_text("{}")
    (moved / "run.toml").write_text(f'output_dir = "{tmp_path / "before"}"\n')
    words = ["--config", str(moved / "run.toml"), "--resume_from_checkpoint", "latest"]
    with pytest.raises(ConfigError, match=f"lie in {moved}. Add --output_dir {moved}"):
        config.parse(words)
    assert parsed(*words, "--output_dir", str(moved)).train.output_dir == str(moved)
    (tmp_path / "before").mkdir()
    with pytest.raises(ConfigError, match="nothing to go on from"):
        config.parse(words)
    (tmp_path / "before" / "checkpoint-2").mkdir()
    assert Path(parsed(*words).train.output_dir) == tmp_path / "before"
