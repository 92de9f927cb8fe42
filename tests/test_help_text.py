"""--help: whole names, filled lines, groups."""

import dataclasses
import re

import pytest

from pipeline import config, help_text
from pipeline.__main__ import main
from pipeline.errors import ConfigError

pytestmark = pytest.mark.unit
GROUPS = ("model", "data", "objective", "adapter", "optimizer", "run", "previews", "sharing")


@pytest.fixture
def asked(capsys, monkeypatch):
    """What --help prints on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def found(*words):
        assert config.parse([*words]) is None
        return capsys.readouterr().out

    return found


def test_every_flag_is_there_whole_and_no_line_is_longer_than_the_terminal(asked):
    lines = asked("--help").splitlines()
    heads = [found[1] for line in lines if (found := re.match(r"  --(\w+)", line))]
    options = [field.name for section in config.Run().sections for field in dataclasses.fields(section)]
    assert set(heads) == {*options, *help_text.MEANINGS} - {"source"}  # tables of run.toml, and no flag
    assert "[[source]]" in asked("--help")
    assert len(heads) == len(set(heads))
    assert max(map(len, lines)) <= 80
    assert tuple(line.split(":")[0] for line in lines if re.match(r"[a-z]+: ", line)) == GROUPS


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_alone(asked, group):
    text = asked("--help", group)
    assert text.startswith(f"{group}: ")
    assert text.strip() in asked("--help")


def test_a_flag_alone(asked):
    assert asked("--help", "learning-rate").startswith("  --learning_rate X\n")
    assert "--no-random_flip" in asked("--help", "--random_flip")


def test_anything_else_is_answered_with_the_groups():
    with pytest.raises(ConfigError, match=r"neither a group .*optimizer.* nor a flag"):
        config.parse(["--help", "everything"])


def test_the_installed_command_trains_too(capsys):
    assert main(["train", "--help", "sharing"]) == 0
    assert capsys.readouterr().out.startswith("sharing: ")
    assert main(["train", "--rank", "0"]) == 2
    assert "--rank is 0" in capsys.readouterr().err
