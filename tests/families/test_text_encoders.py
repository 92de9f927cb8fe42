"""Adapters on text encoders (P9): they learn, are saved, come back, act in the stock pipeline, and resume exactly."""

import shutil

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from pipeline.families import registry
from tests.conftest import make_colours, metrics, prepared, replaced, small_flags

pytestmark = pytest.mark.contract
FILE = "pytorch_lora_weights.safetensors"
FAMILIES = [registry.class_of(name) for name in registry.REGISTRY]
WITH_CLIP = sorted(family.name for family in FAMILIES if family.trainable_encoders)
WITHOUT_CLIP = sorted(family.name for family in FAMILIES if not family.trainable_encoders)


@pytest.fixture
def model(request, miniature_of):
    return miniature_of(request.param)


@pytest.fixture
def flags(model, cache, tmp_path):
    found = small_flags(model, make_colours(tmp_path / "data"), cache)
    more = ["--train_text_encoder", "--text_encoder_layers", "attention+mlp", "--lora_alpha", "6"]
    more += ["--rank_pattern", "text_encoder.*.fc1=2", "--caption_dropout", "0.2", "--validation_split", "0.125"]
    return [*replaced(found, max_train_steps=2, num_validation_images=0), *more, "--use_dora", "--lora_dropout", "0.1"]


@pytest.mark.parametrize("model", WITH_CLIP, indirect=True)
def test_they_learn_are_verified_and_go_on_exactly(trainer, model, flags, tmp_path):
    """And the stock pipeline encodes with them as they were trained."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flags = replaced(flags, learning_rate="1e-2")
    ended = trainer(*flags, "--checkpointing_steps", "1", "--keep", "last", "--output_dir", whole)
    assert ended.code == 0, ended.output
    assert "no prompt embeddings" in ended.output
    assert "DoRA (not in text encoders)" in ended.output
    tensors, family = load_file(whole / FILE), registry.detect(model)
    for encoder in family.trainable_encoders:
        own = {name: value for name, value in tensors.items() if name.startswith(f"{encoder}.")}
        assert any(".fc1.lora_B" in name for name in own)
        assert all(value.any() for name, value in own.items() if ".lora_B." in name)
        if encoder == "text_encoder":
            assert {len(value) for name, value in own.items() if ".fc1.lora_A" in name} == {2}
            assert {len(value) for name, value in own.items() if ".fc2.lora_A" in name} == {4}
    cut.mkdir()
    shutil.copytree(whole / "checkpoint-1", cut / "checkpoint-1")
    shutil.copy(whole / "metrics.jsonl", cut)
    words = ["--checkpointing_steps", "1", "--keep", "last", "--resume_from_checkpoint", "latest"]
    ended = trainer(*flags, *words, "--output_dir", cut)
    assert ended.code == 0, ended.output
    assert (cut / FILE).read_bytes() == (whole / FILE).read_bytes()
    assert [row["loss"] for row in metrics(cut)] == [row["loss"] for row in metrics(whole)]
    pipe = DiffusionPipeline.from_pretrained(model)
    with torch.no_grad():
        before = family.embed(pipe, "a red square")
        pipe.load_lora_weights(whole, weight_name=FILE)
        after = family.embed(pipe, "a red square")
    assert any((before[name] - after[name]).abs().max() > 1e-4 for name in before)


@pytest.mark.parametrize("model", ["sd", "sdxl"], indirect=True)
def test_batches_of_any_cut_give_the_same_adapter(trainer, model, flags, tmp_path):
    """Of several encoders each now and then without what it reads, too."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    # Adam divides by a gradient's own size: where that is mere rounding, so would the step be.
    flags = [*flags, "--adam_epsilon", "1e-5"]
    flags += ["--encoder_dropout", "0.5"] if registry.detect(model).text_parts else []
    assert trainer(*replaced(flags, train_batch_size=4), "--output_dir", once).code == 0
    assert trainer(*flags, "--gradient_accumulation_steps", "2", "--output_dir", twice).code == 0
    ours, theirs = load_file(once / FILE), load_file(twice / FILE)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)
    assert all(value.abs().max() > 1e-4 for name, value in ours.items() if ".lora_B." in name)
    losses = [[row["loss"] for row in metrics(out)] for out in (once, twice)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("model", ["sdxl"], indirect=True)
def test_each_group_of_weights_has_its_own_rate(flags, tmp_path):
    from pipeline.run import build
    from pipeline.run.encode import encode

    rates = ["--text_encoder_lr", "2e-5", "--lora_plus_ratio", "16", "--learning_rate", "1e-4"]
    at = flags.index("--learning_rate")
    context = prepared([*flags[:at], *flags[at + 2 :], *rates], tmp_path / "out")
    encode(context)
    models = build.load_models(context)
    state = build.build_state(context, models)
    names = {id(value): name for name, value in state.named.items()}
    seen = {}
    for group in state.optimizer.param_groups:
        for value in group["params"]:
            name = names[id(value)]
            key = name.split(".")[0] == "unet", ".lora_B." in name
            seen.setdefault(key, set()).add(round(group["factor"] * 1e-4, 10))
    assert seen == {(True, False): {1e-4}, (True, True): {1.6e-3}, (False, False): {2e-5}, (False, True): {3.2e-4}}
    assert list(state.named) == [
        names[id(value)] for group in state.optimizer.param_groups for value in group["params"]
    ]


@pytest.mark.parametrize("model", WITHOUT_CLIP, indirect=True)
def test_a_family_without_clip_says_so(trainer, flags, tmp_path):
    ended = trainer(*flags, "--output_dir", tmp_path / "out")
    assert ended.code == 2
    assert "has no CLIP text encoder" in ended.output


@pytest.mark.parametrize("model", ["sdxl"], indirect=True)
def test_the_layer_that_is_never_read_is_left_out(flags, tmp_path):
    from pipeline.run.plan import all_target_modules

    context = prepared(flags, tmp_path / "out")
    names = {f"{site.prefix}{site.name}" for site in all_target_modules(context.run, context.family)}
    assert any(name.startswith("text_encoder.encoder.layers.0.") for name in names)
    assert not any(name.startswith("text_encoder.encoder.layers.1.") for name in names)
    assert any(name.startswith("text_encoder_2.text_model.encoder.layers.1.") for name in names)
