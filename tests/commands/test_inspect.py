"""inspect: what an adapter is, in words and in JSON, whatever dialect it is in."""

import json

import pytest
import torch
from safetensors.torch import save_file

from pipeline.commands import adapters
from pipeline.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.contract


def test_inspect_says_it_in_words_and_in_json(every, miniature, capsys):
    for source, path in every[1].items():
        adapters.inspect(path, miniature, False)
        shown = capsys.readouterr().out
        assert shown.startswith(f"Adapter  {path}\n")
        assert source in shown
        adapters.inspect(path, miniature, True)
        said = json.loads(capsys.readouterr().out)
        assert (said["format"], said["family"], said["problems"]) == (source, "sd", [])


def test_inspect_lists_problems_and_asks_for_the_base_where_it_must(every, tmp_path, capsys):
    tensors = {name: value.clone() for name, value in every[0].items()}
    tensors["unet.conv_in.lora_B.weight"].zero_()
    save_file(tensors, tmp_path / "x.safetensors")
    adapters.inspect(tmp_path / "x.safetensors", None, False)
    assert "  - unet.conv_in.lora_B.weight is zero" in capsys.readouterr().out
    tensors["unet.conv_in.lora_B.weight"].fill_(torch.nan)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="is not fit for use"):
        adapters.inspect(tmp_path / "x.safetensors", None, False)
    assert "unet.conv_in.lora_B.weight is not finite" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--base"):
        adapters.inspect(every[1]["kohya"], None, False)
