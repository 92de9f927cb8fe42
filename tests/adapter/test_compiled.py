"""Compiled blocks compute what they did, where they learn, and nothing else is compiled."""

import os

import pytest
import torch

import train_lora
from pipeline.adapter import compiled
from pipeline.adapter.compiled import CACHE
from pipeline.families import registry
from pipeline.families.blocks import repeated_blocks
from tests.conftest import metrics, replaced, small_flags

pytestmark = pytest.mark.unit
FILE = "pytorch_lora_weights.safetensors"
TOLERANCE = 1e-5  # of a loss, relative: kernels that are fused round differently


def losses_of(folder):
    return [row["loss"] for row in metrics(folder)]


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without kernels of its own: blocks are traced, and gone back to where a guard fails."""
    made = []

    def compile_(forward):
        made.append(forward)
        return compiling(forward, backend="aot_eager", fullgraph=True)

    compiling = torch.compile
    monkeypatch.setattr(torch, "compile", compile_)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("family", ["flux", "sd"])
def test_blocks_are_traced_whole_with_adapters_and_recomputed_activations(
    family, traced, miniature_of, colours, cache, tmp_path
):
    flags = replaced(small_flags(miniature_of(family), colours, cache), max_train_steps=2, lora_layers="attention")
    flags += ["--gradient_checkpointing"]
    for name, more in (("eager", []), ("compiled", ["--compile"])):
        assert train_lora.main([*flags, *more, "--output_dir", str(tmp_path / name)]) == 0
    assert len([forward for forward in traced if "Block" in type(getattr(forward, "__self__", None)).__name__]) >= 4
    assert losses_of(tmp_path / "compiled") == pytest.approx(losses_of(tmp_path / "eager"), rel=TOLERANCE)


def test_a_block_is_compiled_only_where_it_learns(monkeypatch, tmp_path):
    monkeypatch.delenv(CACHE, raising=False)
    monkeypatch.setattr(torch, "compile", lambda forward: lambda *args: "compiled")
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(2))
    undo = compiled.compile_blocks(model, tmp_path, deterministic=True)
    assert os.environ[CACHE] == str(tmp_path)
    undo()
    assert os.environ[CACHE] != str(tmp_path)
    block, x = model.layers[0], torch.ones(1, 2)
    assert block(x) == "compiled"
    with torch.no_grad():
        assert isinstance(block(x), torch.Tensor)
    assert isinstance(block.eval()(x), torch.Tensor)


def test_without_a_compiler_it_is_refused(small, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)
    assert train_lora.main([*small, "--compile", "--output_dir", str(tmp_path / "out")]) == 2
    assert "a C++ compiler" in capfd.readouterr().err


@pytest.mark.parametrize("any_family", sorted(registry.NAMES))
def test_blocks_hold_nearly_all_of_a_model(any_family, miniature_of):
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(miniature_of(any_family), local_files_only=True)
    denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    blocks = repeated_blocks(denoiser)
    within = sum(value.numel() for block in blocks.values() for value in block.parameters())
    assert within > 0.6 * sum(value.numel() for value in denoiser.parameters())
    assert not [name for name in blocks for other in blocks if name.startswith(f"{other}.")]


@pytest.mark.slow
@pytest.mark.skipif(compiled.compiler_missing(torch.device("cpu")) is not None, reason="no C++ compiler")
def test_kernels_from_the_cache_give_the_same_bits(miniature_of, colours, cache, tmp_path):
    """Cold and warm, and twenty losses beside the eager ones."""
    flags = replaced(small_flags(miniature_of("flux"), colours, cache), max_train_steps=20, lora_layers="attention+mlp")
    for name, more in (("eager", []), ("cold", ["--compile"]), ("warm", ["--compile"])):
        torch._dynamo.reset()
        assert train_lora.main([*flags, *more, "--output_dir", str(tmp_path / name)]) == 0
    assert (tmp_path / "cold" / FILE).read_bytes() == (tmp_path / "warm" / FILE).read_bytes()
    assert losses_of(tmp_path / "cold") == pytest.approx(losses_of(tmp_path / "eager"), rel=TOLERANCE)
