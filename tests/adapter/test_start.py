"""P42: an adapter to start from is started from, in whatever dialect it is, and a wrong one is refused."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.adapter import init_from
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.files import writer
from pipeline.adapter.names import as_in_files
from pipeline.adapter.options import AdapterOptions
from pipeline.commands import adapters
from pipeline.families import registry
from tests.conftest import dedupe, in_pairs, metrics, replaced

pytestmark = pytest.mark.invariant
FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture
def small(small):
    return replaced(small, num_validation_images=0)


@pytest.fixture
def trained(finished_run):
    """A run with ranks and alphas that differ, text encoder included; its folder, not to be changed."""
    kind = ["--lora_layers", "attention+mlp", "--lora_alpha", "6", "--train_text_encoder"]
    kind += ["--rank_pattern", "attn2.to_k=2,text_encoder.*=3"]
    return finished_run("--max_train_steps", "4", "--num_validation_images", "0", *kind, name="first")


def left_open(flags: list[str]) -> list[str]:
    """Without what the file says itself."""
    return [
        word for name, value in in_pairs(flags) if name not in ("--rank", "--lora_layers") for word in (name, value)
    ]


@pytest.mark.parametrize("dialect", ["diffusers", "kohya", "folder", "peft"])
def test_the_live_adapter_is_the_files(trained, miniature, tmp_path, dialect):
    places = {"diffusers": FILE, "kohya": "comfyui/first.safetensors", "folder": ".", "peft": tmp_path / "peft"}
    place = trained / places[dialect]
    if dialect == "peft":
        adapters.export(trained, place, "peft", miniature)
    family = registry.detect(miniature)
    options = AdapterOptions(init_lora=str(place), train_text_encoder=True)
    pipe = family.load("unet", *family.encoders)
    models = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    sites = init_from.chosen(family, models, options)
    from pipeline.adapter import lora

    for name, model in models.items():
        lora.attach(model, options, sites[name], seed=0)
    adapted = AdaptedModels(models)
    init_from.put(adapted, init_from.read(family, str(place)))
    ours, theirs = as_in_files(writer.state_dict(adapted)), load_file(trained / FILE)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value)
    ranks = {site.rank for site in sites["unet"] if site.name.endswith("attn2.to_k")}
    assert ranks == {2}
    if dialect == "kohya":
        assert {site.alpha for site in sites["unet"]} == {6.0}  # the canonical file has its strength in B


def test_a_run_begins_where_the_other_ended_and_goes_on_exactly(trainer, small, trained, tmp_path):
    more = ["--init_lora", trained, "--train_text_encoder", "--checkpointing_steps", "1"]
    flags = [*replaced(left_open(small), max_train_steps=2), *more]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ended = trainer(*flags, "--output_dir", whole)
    assert ended.code == 0, ended.output
    assert f"those of {trained}" in ended.output
    assert {name: v.shape for name, v in load_file(whole / FILE).items()} == {
        name: v.shape for name, v in load_file(trained / FILE).items()
    }
    with safe_open(whole / "comfyui" / "whole.safetensors", "pt") as file, safe_open(whole / FILE, "pt") as canonical:
        said, note = file.metadata(), json.loads(canonical.metadata()["t2i_lora"])
    assert (said["ss_network_dim"], said["ss_network_alpha"], note["rank"]) == ("4", "4.0", 4)  # the file's, no flag's
    card = (whole / "README.md").read_text(encoding="utf-8")
    assert "| begun from | first |\n| rank | 4 |\n| alpha | 4 |\n" in card
    assert "| text encoders trained | yes |\n" in card
    assert "| layers |" not in card
    still = [*replaced(flags, max_train_steps=1, learning_rate="1e-12"), "--output_dir", tmp_path / "still"]
    assert trainer(*still).code == 0
    for name, value in load_file(tmp_path / "still" / FILE).items():
        torch.testing.assert_close(value, load_file(trained / FILE)[name], atol=1e-6, rtol=1e-5)
    cut.mkdir()
    shutil.copytree(whole / "checkpoint-1", cut / "checkpoint-1")
    shutil.copy(whole / "metrics.jsonl", cut)
    assert trainer(*flags, "--output_dir", cut, "--resume_from_checkpoint", "latest").code == 0
    assert (cut / FILE).read_bytes() == (whole / FILE).read_bytes()
    assert len(metrics(cut)) == 2


def test_dora_is_started_from(trainer, small, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    flags = replaced(left_open(small), max_train_steps=2)
    assert trainer(*flags, "--use_dora", "--lora_alpha", "6", "--output_dir", first).code == 0
    ended = trainer(*replaced(flags, learning_rate="1e-12"), "--init_lora", first / FILE, "--output_dir", second)
    assert ended.code == 0, ended.output
    for name, value in load_file(second / FILE).items():
        torch.testing.assert_close(value, load_file(first / FILE)[name], atol=1e-6, rtol=1e-5)


def test_what_does_not_fit_is_refused_in_a_sentence(trainer, small, trained, miniature_of, tmp_path):
    out = ["--output_dir", tmp_path / "out"]
    (tmp_path / "x.bin").write_bytes(b"pickle")
    zero = {name: torch.zeros_like(v) if "lora_B" in name else v for name, v in load_file(trained / FILE).items()}
    save_file(zero, tmp_path / "zero.safetensors")
    cases = [
        (["--init_lora", trained, "--rank", "5", "--train_text_encoder"], "which is kept; leave --rank out"),
        (["--init_lora", trained], "give --train_text_encoder"),
        (["--init_lora", trained, "--lora_layers", "to_q"], "leave --lora_layers out"),
        (["--init_lora", tmp_path / "x.bin"], "no .safetensors file"),
        (["--init_lora", tmp_path / "zero.safetensors", "--train_text_encoder"], "layers is zero"),
        (["--init_lora", trained, "--pretrained_model_name_or_path", miniature_of("sdxl")], "for another model"),
    ]
    for words, said in cases:
        ended = trainer(*dedupe([*left_open(small), *words, *out]))
        assert ended.code == 2, ended.output
        assert said in ended.output
        assert "Traceback" not in ended.output
