"""How steps are executed on a GPU: `pytest -m gpu tests/gpu/test_engine.py`."""

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import metrics, replaced
from tests.gpu.test_gpu import FAMILIES, FILE, flags_of, killed_at_step_7, result_of, run_here

pytestmark = pytest.mark.gpu
BOUNDS = {"no": 1e-4, "bf16": 2e-2}  # of a loss, relative, beside a step that is launched as ever


def losses_of(folder):
    return torch.tensor([row["loss"] for row in metrics(folder)])


def both_ways(tmp_path, flags, plain, other):
    """The same run two ways; what the second one said."""
    for name, more in (("plain", plain), ("other", other)):
        assert run_here(*flags, *more, "--output_dir", tmp_path / name) == 0
    return losses_of(tmp_path / "plain"), losses_of(tmp_path / "other")


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"lumina2"}))  # whose transformer reads masks on the host
def test_a_graph_takes_the_steps_that_are_launched_one_by_one(tmp_path, family, precision, capfd):
    flags = [*flags_of(family, tmp_path, precision), "--gradient_accumulation_steps", "2"]
    off, on = ["--cuda_graphs", "off"], ["--cuda_graphs", "on"]
    expected, found = both_ways(tmp_path, flags, off, on)
    assert "cannot be recorded" not in capfd.readouterr().err
    assert torch.allclose(found, expected, rtol=BOUNDS[precision], atol=0)
    own, other = (load_file(tmp_path / name / FILE) for name in ("plain", "other"))
    flat = [torch.cat([value[name].flatten().float() for name in sorted(value)]) for value in (own, other)]
    assert (flat[0] - flat[1]).norm() <= 0.05 * flat[0].norm()


def test_a_step_that_needs_the_host_is_launched_as_ever(tmp_path, capfd):
    flags = [*flags_of("lumina2", tmp_path, "bf16"), "--cuda_graphs", "auto"]
    assert run_here(*flags, "--output_dir", tmp_path / "out") == 0
    assert "cannot be recorded" in capfd.readouterr().err


@pytest.mark.parametrize("more", [["--gradient_checkpointing"], ["--use_dora", "--lora_dropout", "0.1"], []])
def test_a_killed_run_of_graphs_goes_on_bit_for_bit(start, tmp_path, more):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flags = [*flags_of("sdxl", tmp_path, "bf16"), "--checkpointing_steps", "5", "--cuda_graphs", "on", *more]
    killed_at_step_7(start, flags, whole, cut)
    assert (cut / FILE).read_bytes() == (whole / FILE).read_bytes()


def test_optimizers_that_cannot_be_captured_take_their_step_outside(tmp_path, capfd):
    flags = [*replaced(flags_of("sd", tmp_path, "bf16"), learning_rate="1"), "--optimizer", "prodigy"]
    expected, found = both_ways(tmp_path, flags, ["--cuda_graphs", "off"], ["--cuda_graphs", "on"])
    assert "cannot be recorded" not in capfd.readouterr().err
    assert torch.allclose(found, expected, rtol=5e-2, atol=0)


@pytest.mark.parametrize("graphs", ["off", "on"])
@pytest.mark.parametrize("family", ["flux", "sd"])
def test_compiled_blocks_take_the_same_steps_and_go_on_bit_for_bit(start, tmp_path, family, graphs, capfd):
    flags = [*flags_of(family, tmp_path, "bf16"), "--checkpointing_steps", "5", "--cuda_graphs", graphs]
    expected, found = both_ways(tmp_path, flags, [], ["--compile"])
    assert "cannot be recorded" not in capfd.readouterr().err
    assert torch.allclose(found, expected, rtol=BOUNDS["bf16"], atol=0)
    killed_at_step_7(start, [*flags, "--compile"], tmp_path / "whole", tmp_path / "cut")  # which reads kept kernels
    assert (tmp_path / "cut" / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()


@pytest.mark.parametrize("kind", ["nf4", "int8", "fp8"])
@pytest.mark.parametrize("family", ["flux", "sdxl"])
def test_a_base_in_few_bits_is_proven_and_goes_on_bit_for_bit(start, tmp_path, family, kind):
    flags = [*flags_of(family, tmp_path, "bf16"), "--checkpointing_steps", "5", "--base_quantization", kind]
    killed_at_step_7(start, flags, tmp_path / "whole", tmp_path / "cut")
    assert (tmp_path / "cut" / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()
    assert result_of(tmp_path / "whole")["verification"]["error"] <= 1e-5


@pytest.mark.parametrize("more", [[], ["--base_quantization", "nf4"]])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_blocks_from_the_host_give_the_same_bytes(tmp_path, family, more):
    flags = [*flags_of(family, tmp_path, "bf16"), "--gradient_checkpointing", "--cuda_graphs", "off", *more]
    both_ways(tmp_path, flags, [], ["--offload_base"])
    assert (tmp_path / "plain" / FILE).read_bytes() == (tmp_path / "other" / FILE).read_bytes()
    assert result_of(tmp_path / "other")["verification"]["error"] <= 1e-5
