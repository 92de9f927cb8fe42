"""A base in few bits is one base: for the adapter, its gradient, its proof and a run that goes on."""

import json
import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional

import train_lora
from pipeline.adapter import lora, precision
from pipeline.adapter.options import AdapterOptions
from pipeline.adapter.quantized import PACKINGS, QuantizedLinear, quantize
from pipeline.families.targets import TargetModules
from tests.conftest import attach, metrics, replaced, small_flags

pytestmark = pytest.mark.unit
FILE = "pytorch_lora_weights.safetensors"
ERRORS = {"nf4": 0.0955, "int8": 0.0070, "fp8": 0.0267}  # of normal weights, relative, as these ways are known for
CPU = torch.device("cpu")


def layer_of(kind, dtype=torch.float32, bias=True):
    torch.manual_seed(0)
    whole = nn.Linear(256, 128, bias=bias)
    whole.weight.data.normal_()
    return whole.to(dtype), QuantizedLinear(whole.to(dtype), kind, CPU)


def quantized_flux(miniature_of):
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel.from_pretrained(miniature_of("flux") / "transformer", local_files_only=True)
    quantize(model, "fp8", CPU)
    return model


@pytest.mark.parametrize("kind", PACKINGS)
def test_a_weight_is_as_far_from_its_own_as_the_way_is_known_for(kind):
    whole, packed = layer_of(kind)
    error = (packed.weight - whole.weight).norm() / whole.weight.norm()
    assert error.item() == pytest.approx(ERRORS[kind], rel=0.1)
    kept = sum(value.numel() * value.element_size() for value in packed.parts.values())
    assert kept / whole.weight.numel() == pytest.approx({"nf4": 0.5625, "int8": 1.0, "fp8": 1.0}[kind], rel=0.02)
    assert isinstance(packed, nn.Linear)
    assert not dict(packed.named_parameters(recurse=False)).keys() - {"bias"}


@pytest.mark.parametrize("kind", PACKINGS)
def test_a_layer_without_values_keeps_what_one_with_values_does(kind):
    """By which the memory of a run is counted."""
    _, packed = layer_of(kind, torch.bfloat16)
    whole = nn.Linear(packed.in_features, packed.out_features, device="meta", dtype=torch.bfloat16)
    empty = QuantizedLinear(whole, kind, torch.device("meta"))
    kept, counted = (
        {name: (value.shape, value.dtype) for name, value in layer.parts.items()} for layer in (packed, empty)
    )
    assert counted == kept
    assert (empty.weight.shape, empty.weight.dtype) == (whole.weight.shape, torch.bfloat16)
    assert sum(value.nbytes for value in empty.parts.values()) < whole.weight.nbytes


@pytest.mark.parametrize("kind", PACKINGS)
def test_product_and_gradient_are_those_of_the_weight_and_none_is_kept_between(kind):
    _, packed = layer_of(kind)
    x = torch.randn(3, 5, 256, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: saved.append(value) or value, lambda value: value):
        found = packed(x)
    assert not [value for value in saved if value.element_size() > 1 and value.shape == packed.shape]
    wanted = functional.linear(x, packed.weight) + packed.bias
    assert torch.equal(found, wanted)
    up = torch.randn_like(found)
    assert torch.equal(*(torch.autograd.grad(value, x, up)[0] for value in (found, wanted)))


def test_before_pictures_are_drawn_no_weight_is_made(miniature_of, monkeypatch):
    """All at once they would take the memory that was saved."""
    model = quantized_flux(miniature_of)
    attach(model, AdapterOptions(rank=4, lora_layers="attention"), TargetModules({"attention": ("to_q",)}))
    monkeypatch.setattr(QuantizedLinear, "made", lambda *_: pytest.fail("a weight was made"))
    with lora.folded(model):
        assert not any(layer.merged for layer in lora.adapted_layers(model))


def test_in_float32_the_weight_is_the_same_one_and_looks_like_float32():
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Sequential(nn.Linear(64, 32))])
    model.bfloat16()
    quantize(model, "int8", CPU)
    (packed,) = model.layers[0]
    half = packed.weight
    with precision.in_float32(model):
        assert packed.weight.dtype == packed(torch.ones(1, 64)).dtype == torch.float32
        assert torch.equal(packed.weight.bfloat16(), half)
    assert packed.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"lora_init": "pissa"}], ids=["lora", "dora", "pissa"])
def test_an_adapter_begins_as_the_base_in_few_bits(options, miniature_of):
    model = quantized_flux(miniature_of)
    block = model.transformer_blocks[0]
    x = torch.randn(2, 3, block.attn.to_q.in_features)
    base = block.attn.to_q(x)
    attach(model, AdapterOptions(rank=4, lora_layers="attention", **options), TargetModules({"attention": ("to_q",)}))
    torch.testing.assert_close(block.attn.to_q(x), base, rtol=1e-4, atol=1e-5)
    assert isinstance(block.attn.to_q.base_layer, QuantizedLinear)
    assert all(value.dtype == torch.float32 for name, value in model.named_parameters() if "lora" in name)


@pytest.mark.parametrize(("family", "kind"), [("sd", "nf4"), ("flux", "fp8")])
def test_a_run_on_it_is_proven_says_so_and_goes_on_exactly(family, kind, miniature_of, colours, cache, tmp_path, capfd):
    out, whole = tmp_path / "out", tmp_path / "whole"
    flags = replaced(small_flags(miniature_of(family), colours, cache), max_train_steps=2)
    flags += ["--checkpointing_steps", "1", "--output_dir", str(out)]
    assert train_lora.main([*flags, "--base_quantization", kind]) == 0
    assert f"in {kind}: the adapter learns on" in capfd.readouterr().err
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert result["verification"]["error"] <= 1e-5
    assert f"| linear layers of the base, while it learnt | {kind} |" in (out / "README.md").read_text(encoding="utf-8")
    expected = (out / FILE).read_bytes()
    shutil.rmtree(out / "checkpoint-2")
    (out / FILE).unlink()
    again, flags = ["--resume_from_checkpoint", "latest"], replaced(flags, num_validation_images=0)
    assert train_lora.main([*flags, *again]) == 2  # on another base
    assert f"base_quantization: '{kind}' then, None now" in capfd.readouterr().err
    assert train_lora.main([*flags, *again, "--base_quantization", kind]) == 0
    assert (out / FILE).read_bytes() == expected
    assert train_lora.main([*replaced(flags, max_train_steps=1, output_dir=whole)]) == 0
    assert metrics(whole)[0]["loss"] != metrics(out)[0]["loss"]


def test_without_its_package_it_is_refused(small, monkeypatch, capfd):
    from pipeline.training import speed_options

    monkeypatch.setattr(speed_options.put_off, "is_installed", lambda _: False)
    assert train_lora.main([*small, "--base_quantization", "nf4"]) == 2
    assert "pip install bitsandbytes" in capfd.readouterr().err
