"""Blocks that come from the host compute what they did, are on the device only then, and leave it again."""

import gc
import weakref

import pytest
import torch
from diffusers import FluxTransformer2DModel

import train_lora
from pipeline.adapter import precision
from pipeline.adapter.names import is_adapter
from pipeline.adapter.options import AdapterOptions
from pipeline.adapter.quantized import quantize
from pipeline.adapter.streamed import BlockStream, bytes_there
from pipeline.families.blocks import repeated_blocks
from pipeline.families.targets import TargetModules
from pipeline.run.build import checkpoint
from tests.conftest import attach, metrics, replaced, small_flags

pytestmark = pytest.mark.unit
FILE = "pytorch_lora_weights.safetensors"
CPU = torch.device("cpu")


@pytest.fixture
def model(request, miniature_of):
    found = FluxTransformer2DModel.from_pretrained(miniature_of("flux") / "transformer", local_files_only=True)
    for value in found.parameters():  # in a file they lie where they lie, and where they lie decides bits on a CPU
        value.data = value.data.clone()
    if getattr(request, "param", None) is not None:
        quantize(found, request.param, CPU)
    attach(found, AdapterOptions(rank=2, lora_layers="attention"), TargetModules({"attention": ("to_q", "proj_out")}))
    return found.train()


def inputs_of(model, dtype=torch.float32, device="cpu"):
    torch.manual_seed(0)
    config = model.config
    return {
        "hidden_states": torch.randn(1, 4, config.in_channels).to(device, dtype),
        "encoder_hidden_states": torch.randn(1, 3, config.joint_attention_dim).to(device, dtype),
        "pooled_projections": torch.randn(1, config.pooled_projection_dim).to(device, dtype),
        "timestep": torch.rand(1).to(device, dtype),
        "guidance": torch.ones(1).to(device, dtype) if config.guidance_embeds else None,
        "img_ids": torch.zeros(4, 3, device=device),
        "txt_ids": torch.zeros(3, 3, device=device),
    }


def gradients(model, inputs):
    output = model(**inputs).sample
    weights = [value for value in model.parameters() if value.requires_grad]
    return [output.detach(), *torch.autograd.grad(output.float().square().sum(), weights)]


@pytest.mark.parametrize("model", [None, "int8"], indirect=True)
def test_outputs_and_gradients_are_the_same_bits_and_at_most_two_blocks_are_there(model, monkeypatch):
    expected = gradients(model, inputs_of(model))
    checkpoint(model)
    brought, most = [], 0
    copied = BlockStream._copied

    def counted(self, number, dtype):
        nonlocal most
        found = copied(self, number, dtype)
        brought.append((number, weakref.ref(found[0])))
        gc.collect()
        most = max(most, len({number for number, value in brought if value() is not None}))
        return found

    monkeypatch.setattr(BlockStream, "_copied", counted)
    BlockStream(model, CPU)
    for _ in range(3):  # the last knows what comes next
        brought.clear()
        found = gradients(model, inputs_of(model))
        assert all(torch.equal(own, other) for own, other in zip(found, expected, strict=True))
    assert [number for number, _ in brought] == [1, 2, 3, 3, 2, 1, 0, 0]  # the first came with the step before
    assert most <= 2
    assert len(repeated_blocks(model)) == 4


@pytest.mark.parametrize("model", [None, "int8"], indirect=True)
def test_only_blocks_stay_on_the_host(model):
    at_most = bytes_there(model)
    stream = BlockStream(model, torch.device("meta"))
    blocks = sorted(sum(slot.value.nbytes for slot in slots) for slots in stream._blocks)
    there = [value for value in (*model.parameters(), *model.buffers()) if value.is_meta and not value.requires_grad]
    assert at_most == sum(value.nbytes for value in there) + sum(blocks[-2:])
    within = {id(slot.own) for slots in stream._blocks for slot in slots}
    for name, value in model.named_parameters():
        assert value.device.type == ("cpu" if id(value) in within else "meta"), name
        assert not (is_adapter(name) and id(value) in within)
    found = gradients(model, inputs_of(model, device="meta"))
    assert {value.device.type for value in found} == {"meta"}


def test_in_float32_a_half_precision_block_comes_in_float32_and_looks_as_if_it_were_there(model):
    half = model.to(torch.bfloat16)
    for name, value in half.named_parameters():
        if is_adapter(name):
            value.data = value.data.float()
    half.eval()
    with precision.in_float32(half):
        expected = half(**inputs_of(half)).sample
    BlockStream(half, CPU)
    with precision.in_float32(half):
        assert torch.equal(half(**inputs_of(half)).sample, expected)
        assert half.transformer_blocks[0].attn.to_q.base_layer.weight.isnan().all()
    assert half.transformer_blocks[0].attn.to_q.base_layer.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["sd", "lumina2"])
def test_a_run_ends_with_the_same_bytes(family, miniature_of, colours, cache, tmp_path, capfd):
    flags = replaced(small_flags(miniature_of(family), colours, cache), max_train_steps=3)
    flags.append("--gradient_checkpointing")
    for name, more in (("plain", []), ("streamed", ["--offload_base"])):
        assert train_lora.main([*flags, *more, "--output_dir", str(tmp_path / name)]) == 0
    assert "brought one ahead of use" in capfd.readouterr().err
    plain, other = tmp_path / "plain", tmp_path / "streamed"
    assert (plain / FILE).read_bytes() == (other / FILE).read_bytes()
    assert [row["loss"] for row in metrics(plain)] == [row["loss"] for row in metrics(other)]
    pictures = [sorted((folder / "samples").rglob("*.png")) for folder in (plain, other)]
    assert [path.read_bytes() for path in pictures[0]] == [path.read_bytes() for path in pictures[1]]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--compile", "--gradient_checkpointing"], "leave one out"),
        (["--cuda_graphs", "on", "--gradient_checkpointing"], "leave one out"),
        ([], "needs --gradient_checkpointing"),
    ],
)
def test_it_is_refused_beside_fixed_weights_and_without_recomputed_activations(small, capfd, more, said):
    assert train_lora.main([*small, "--offload_base", *more]) == 2
    assert said in capfd.readouterr().err
