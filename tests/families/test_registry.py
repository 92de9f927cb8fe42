"""The families there are, how small they are, and their miniatures."""

import sys
from pathlib import Path

import pytest

from pipeline.errors import CheckpointError, ConfigError
from pipeline.families import miniature, registry
from pipeline.families.options import ModelOptions
from tests.families.conftest import NAMES

pytestmark = pytest.mark.contract
SOURCES = Path(registry.__file__).parent


def test_a_model_that_is_nowhere_is_named_without_a_wait(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("./nowhere", "nowhere", "a/b/c"):
        with pytest.raises(CheckpointError, match="does not exist"):
            registry.find(ModelOptions(pretrained_model_name_or_path=name), None)


def test_miniatures_repeat_and_refuse(tmp_path):
    for name in ("a", "b"):
        miniature.write("sd", tmp_path / name)
    file = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    with pytest.raises(ConfigError, match="not empty"):
        miniature.write("sd", tmp_path / "a")
    with pytest.raises(ConfigError, match="not offered"):
        miniature.write("flux", tmp_path / "c", prediction="epsilon")


def test_the_families_are_small(family, capsys):
    """The line counts, for everybody to see."""
    file = SOURCES / f"{family.name}.py"
    num_lines = len(file.read_text(encoding="utf-8").splitlines())
    with capsys.disabled():
        sys.stdout.write(f"\n{file.name}: {num_lines} lines\n")
    assert num_lines <= 150


def test_every_family_has_a_miniature_and_so_every_test():
    assert sorted(registry.NAMES) == NAMES
