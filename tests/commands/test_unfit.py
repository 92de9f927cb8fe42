"""Nothing is drawn with an adapter that is damaged or for another base, and at scale 0 the adapter is off."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline.__main__ import main
from pipeline.adapter.names import FILE
from pipeline.evaluation.sample import Sampler
from tests.conftest import largest_difference
from tests.running import whole_grid

pytestmark = pytest.mark.unit


def with_a_nan(tensors):
    name = min(tensors)
    return tensors | {name: torch.full_like(tensors[name], torch.nan)}


def without_a_half(tensors):
    return {name: value for name, value in tensors.items() if name != min(tensors)}


@pytest.mark.parametrize(
    ("damaged", "said", "verbs"),
    [
        (with_a_nan, "is not finite", ("evaluate", "compare", "sample")),
        (without_a_half, "lacks its lora_A.weight", ("evaluate",)),
    ],
)
def test_a_damaged_adapter_is_refused_before_anything_is_drawn(
    finished_run, tmp_path, damaged, said, verbs, capsys, monkeypatch
):
    """`evaluate` finds base and adapter as `forgetting`, `fairness` and `frontier` do."""
    out, to = shutil.copytree(finished_run(), tmp_path / "out"), tmp_path / "to"
    save_file(damaged(load_file(out / FILE)), out / FILE)
    (tmp_path / "captions.txt").write_text("a bird\n", encoding="utf-8")
    monkeypatch.setattr(Sampler, "draw", None)
    words = {
        "evaluate": ["--captions", str(tmp_path / "captions.txt"), "--extractor", "starter"],
        "compare": ["--prompts", str(tmp_path / "captions.txt")],
        "sample": ["--prompt", "x"],
    }
    for verb in verbs:
        assert main([verb, str(out), *words[verb], "--to", str(to)]) == 2, verb
        assert said in capsys.readouterr().err
        assert not to.exists()


def test_so_are_damaged_ones_beside_a_whole_one(finished_run, tmp_path, capsys, monkeypatch):
    out, to = shutil.copytree(finished_run(), tmp_path / "out"), str(tmp_path / "to")
    (tmp_path / "captions.txt").write_text("bird\nfox\ncat\ndog\n", encoding="utf-8")
    earlier = shutil.copytree(out / "checkpoint-12", out / "checkpoint-3")
    for file in (earlier / FILE, shutil.copytree(out, tmp_path / "other") / FILE):
        save_file(with_a_nan(load_file(file)), file)
    monkeypatch.setattr(Sampler, "draw", None)
    for words in (
        ["compare", str(out), str(tmp_path / "other"), "--prompts", str(tmp_path / "captions.txt")],
        ["frontier", str(out), "--captions", str(tmp_path / "captions.txt"), "--checkpoints"],
    ):
        assert main([*words, "--to", to]) == 2
        assert "is not finite" in capsys.readouterr().err


def test_an_adapter_that_adds_nothing_is_the_base(finished_run, tmp_path):
    out = shutil.copytree(finished_run(), tmp_path / "out")
    save_file({name: torch.zeros_like(value) for name, value in load_file(out / FILE).items()}, out / FILE)
    assert main(["sample", str(out), "--prompt", "x", "--num_inference_steps", "1", "--to", str(tmp_path / "to")]) == 0
    pictures = [Image.open(tmp_path / "to" / part / "0000.png") for part in ("adapted", "base")]
    assert largest_difference(*pictures) == 0


def test_an_adapter_for_another_base_is_refused_before_anything_is_drawn(finished_run, miniature_of, tmp_path, capsys):
    (tmp_path / "captions.txt").write_text("a bird\n", encoding="utf-8")
    words = [
        str(finished_run() / FILE),
        "--base",
        str(miniature_of("flux")),
        "--captions",
        str(tmp_path / "captions.txt"),
    ]
    assert main(["evaluate", *words, "--to", str(tmp_path / "to")]) == 2
    assert "is for another model" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_at_scale_0_dora_is_off(finished_run, tmp_path):
    """PEFT's scaling alone would leave its magnitudes."""
    flags = ["--use_dora", "--learning_rate", "0.2", "--validation_prompt", "a red square"]
    flags += ["--max_train_steps", "3", "--num_inference_steps", "2", "--validation_steps", "3"]
    out = finished_run(*flags, prepared=whole_grid)
    words = ["sample", str(out), "--prompt", "a red square", "--to"]
    assert main([*words, str(tmp_path / "off"), "--scale", "0"]) == 0
    assert main([*words, str(tmp_path / "on")]) == 0
    pictures = {
        (which, part): Image.open(tmp_path / which / part / "0000.png")
        for which in ("off", "on")
        for part in ("adapted", "base")
    }
    assert largest_difference(pictures["off", "adapted"], pictures["off", "base"]) == 0
    assert largest_difference(pictures["on", "adapted"], pictures["off", "base"]) > 2
    grid = json.loads((out / "samples" / "grid" / "index.json").read_text(encoding="utf-8"))
    base = json.loads((out / "samples" / "base" / "index.json").read_text(encoding="utf-8"))[0]
    cells = {
        row["scale"]: Image.open(out / "samples" / "grid" / row["file"])
        for row in grid
        if row["guidance_scale"] == base["guidance_scale"]
    }
    drawn = Image.open(out / "samples" / "base" / base["file"])
    assert largest_difference(cells[0.0], drawn) == 0
    assert largest_difference(cells[1.0], drawn) > 2
