"""Invariants 6 and 7 at the level of the file: what is exported is what was trained, and a wrong file is refused."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from pipeline.adapter import lora, verify
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.files import kohya, writer
from pipeline.adapter.names import FILE
from pipeline.adapter.options import AdapterOptions
from pipeline.errors import ConfigError, TrainingStopped
from pipeline.families import registry
from pipeline.families.targets import TargetModules
from pipeline.run import build, export
from pipeline.run.encode import encode
from tests.conftest import attach, prepared, replaced

pytestmark = pytest.mark.invariant


@pytest.fixture
def adapted(miniature):
    """A denoiser with a random adapter of alpha 16 at rank 4, and fixed inputs."""
    family = registry.detect(miniature)
    denoiser = family.load("unet").unet.eval()
    attach(denoiser, AdapterOptions(rank=4, lora_alpha=10.0), family.targets)
    generator = torch.Generator().manual_seed(1)
    for value in lora.parameters(denoiser).values():
        value.data = torch.randn(value.shape, generator=generator) * 0.2
    x_t, states = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 77, 32, generator=generator)
    return family, denoiser, lambda model=denoiser: model(x_t, torch.tensor([10, 900]), states).sample


def check(file: Path, adapted) -> verify.VerificationResult:
    family, denoiser, predict = adapted
    return verify.verify(file, family, AdaptedModels({"unet": denoiser}), predict=predict, tolerance=1e-3)


def test_the_file_means_the_same_to_stock_diffusers(adapted, miniature, tmp_path):
    _, denoiser, predict = adapted
    file = writer.write(tmp_path, AdaptedModels({"unet": denoiser}), "{}")
    assert check(file, adapted).error < 1e-5
    with torch.no_grad():
        live = predict()
        pipe = StableDiffusionPipeline.from_pretrained(miniature)
        base_prediction = predict(pipe.unet)
        pipe.load_lora_weights(tmp_path)
        loaded = predict(pipe.unet)
    assert (live - loaded).norm() <= 1e-5 * (live - base_prediction).norm()
    assert (live - base_prediction).norm() > 0.01 * base_prediction.norm()


def test_verifying_leaves_the_live_adapter_as_it_was(adapted, tmp_path):
    _, denoiser, predict = adapted
    before = {name: value.detach().clone() for name, value in lora.parameters(denoiser).items()}
    with torch.no_grad():
        output = predict()
    check(writer.write(tmp_path, AdaptedModels({"unet": denoiser}), "{}"), adapted)
    after = lora.parameters(denoiser)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.no_grad():
        assert torch.equal(predict(), output)


def test_the_stock_loader_is_asked_strictly_and_what_it_warns_of_counts(adapted, tmp_path, monkeypatch):
    file, asked = writer.write(tmp_path, AdaptedModels({"unet": adapted[1]}), "{}"), {}
    load = StableDiffusionPipeline.load_lora_weights

    def noted(self, *args, **given):
        asked.update(given)
        load(self, *args, **given)

    def doubtful(self, *args, **given):
        noted(self, *args, **given)
        warnings.warn("some keys were left over", stacklevel=1)

    monkeypatch.setattr(StableDiffusionPipeline, "load_lora_weights", noted)
    check(file, adapted)
    assert (asked["use_safetensors"], asked["local_files_only"]) == (True, True)
    monkeypatch.setattr(StableDiffusionPipeline, "load_lora_weights", doubtful)
    with pytest.raises(TrainingStopped, match=r"cannot be loaded by diffusers.*left over"):
        check(file, adapted)

    def empty(self, *args, **given):
        noted(self, *args, **given)
        layer = self.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.lora_A[verify.LOADED]
        layer.weight = torch.nn.Parameter(layer.weight.to("meta"))

    monkeypatch.setattr(StableDiffusionPipeline, "load_lora_weights", empty)
    with pytest.raises(TrainingStopped, match=r"unet\.mid_block.*to_q\.lora_A.*meta"):
        check(file, adapted)


def tampered(tmp_path, adapted, change) -> Path:
    file = writer.write(tmp_path, AdaptedModels({"unet": adapted[1]}), "{}")
    tensors = load_file(file)
    change(tensors, sorted(tensors))
    save_file(tensors, file)
    return file


CHANGES = {
    "renamed": lambda t, names: t.update({names[0].replace("to_k", "to_kk"): t.pop(names[0])}),
    "prefix": lambda t, names: [t.update({name.replace("unet.", "model."): t.pop(name)}) for name in names],
    "half missing": lambda t, names: [t.pop(name) for name in names[: len(names) // 2]],
    "stronger": lambda t, names: [t.update({name: t[name] * 1.1}) for name in names if "lora_B" in name],
    "not finite": lambda t, names: t[names[0]].view(-1)[:1].fill_(float("nan")),
    "zero": lambda t, names: [t[name].zero_() for name in names if "lora_B" in name][:1],
}


@pytest.mark.parametrize("harm", CHANGES)
def test_a_wrong_file_is_refused(adapted, tmp_path, harm):
    file = tampered(tmp_path, adapted, CHANGES[harm])
    with pytest.raises(TrainingStopped):
        check(file, adapted)


def test_layers_that_were_not_trained_are_named(adapted, tmp_path):
    """However little they add."""

    def more(tensors, _):
        layer = adapted[1].time_embedding.linear_2
        tensors["unet.time_embedding.linear_2.lora_A.weight"] = torch.full((4, layer.in_features), 1e-12)
        tensors["unet.time_embedding.linear_2.lora_B.weight"] = torch.full((layer.out_features, 4), 1e-12)

    with pytest.raises(TrainingStopped, match=r"linear_2: in the file, but not trained"):
        check(tampered(tmp_path, adapted, more), adapted)


@pytest.mark.parametrize("harm", ["canonical", "comfyui"])
def test_every_run_proves_what_it_hands_over(small, tmp_path, monkeypatch, harm):
    """Nothing gets the name of the adapter before."""
    context = prepared(small, tmp_path / "out")
    encode(context)
    models = build.load_models(context)
    for value in models.adapted.parameters().values():
        value.data = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)) * 0.1
    whole, read = writer.write, kohya.from_kohya

    def stronger(*words):
        file = whole(*words)
        save_file({name: 1.1 * value if "lora_B" in name else value for name, value in load_file(file).items()}, file)
        return file

    def half(*words):
        tensors, rest = read(*words)
        return {name: value / 2 for name, value in tensors.items()}, rest

    if harm == "canonical":
        monkeypatch.setattr(writer, "write", stronger)
    else:
        monkeypatch.setattr(kohya, "from_kohya", half)
    with pytest.raises(TrainingStopped):
        export.export(context, models, 1)
    assert not (tmp_path / "out" / FILE).exists()
    assert harm == "canonical" or not list((tmp_path / "out").glob("comfyui/*"))
    monkeypatch.undo()
    assert export.export(context, models, 1).verification.error < 1e-5
    assert (tmp_path / "out" / FILE).is_file()


@pytest.mark.parametrize(
    "kind", [["--use_dora", "--train_text_encoder"], ["--lora_init", "pissa"]], ids=["dora", "pissa"]
)
def test_over_a_half_precision_base_it_is_proven_no_less_exactly(trainer, small, tmp_path, kind):
    """The stock loader gives an adapter the type of the weights it finds: bfloat16 would round it."""
    out = tmp_path / "out"
    # Half precision is emulated on most CPUs.
    flags = replaced(small, resolution=16, max_train_steps=4, num_validation_images=0, lora_layers="attention+mlp")
    ended = trainer(*flags, "--mixed_precision", "bf16", "--lora_alpha", "6", *kind, "--output_dir", out)
    assert ended.code == 0, ended.output
    assert json.loads((out / "result.json").read_text(encoding="utf-8"))["verification"]["error"] <= 1e-5


def test_equal_adapters_give_equal_bytes(adapted, tmp_path):
    first = writer.write(tmp_path / "a", AdaptedModels({"unet": adapted[1]}), '{"step": 1}').read_bytes()
    assert writer.write(tmp_path / "b", AdaptedModels({"unet": adapted[1]}), '{"step": 1}').read_bytes() == first


def test_a_target_that_matches_nothing_is_named(miniature):
    denoiser = registry.detect(miniature).load("unet").unet
    with pytest.raises(ConfigError, match="to_z"):
        attach(denoiser, AdapterOptions(lora_layers="to_q,to_z"), TargetModules({}))


def test_chosen_layers_are_the_trained_ones(miniature):
    denoiser = registry.detect(miniature).load("unet").unet
    attach(denoiser, AdapterOptions(lora_layers="to_q, conv1"), TargetModules({}))
    endings = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in lora.parameters(denoiser)}
    assert endings == {"to_q", "conv1"}


@pytest.mark.parametrize("layers", ["attention+mpl", "to_q+to_z,to_k"])
def test_every_word_between_plus_signs_has_to_name_layers(family, layers):
    denoiser = family.load("unet").unet
    with pytest.raises(ConfigError, match=r"(mpl|to_z) matches no layer"):
        attach(denoiser, AdapterOptions(lora_layers=layers), family.targets)
