"""What only a GPU can show: `pytest -m gpu -n 6 tests/gpu`; add -s for the speed and memory of published sizes."""

import gc
import json
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.conftest import dedupe, make_colours, metrics, next_argv, replaced, small_flags, status

pytestmark = pytest.mark.gpu
FILE = "pytorch_lora_weights.safetensors"
FAMILIES = ("flux", "lumina2", "sana", "sd", "sd3", "sdxl")
OPTIMIZERS = {"adamw_8bit": "1e-3", "prodigy": "1", "adafactor": "1e-3", "adamw_schedule_free": "1e-3"}  # and rates
KINDS = {
    "pissa": ["--lora_init", "pissa", "--use_ema"],
    "dora": ["--use_dora", "--lora_dropout", "0.1", "--random_flip"],
    "text encoders": ["--train_text_encoder", "--validation_split", "0.5", "--validation_steps", "5"],
    "convolutions": ["--lora_layers", "all-linear+conv", "--gradient_checkpointing", "--lora_alpha", "6"],
}
SIZES = {"sd15": 512, "sdxl": 1024, "sd35_medium": 1024, "flux_dev": 1024}  # pixels


def flags_of(family: str, folder: Path, precision: str) -> list[str]:
    from pipeline.families import miniature

    miniature.write(family, folder / "model")
    found = small_flags(folder / "model", make_colours(folder / "data"), folder / "cache")
    return [*replaced(found, max_train_steps=20, lora_layers="attention+mlp"), "--mixed_precision", precision]


def result_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def run_here(*argv: object) -> int:
    """A run in this process, which spares another start of CUDA."""
    from accelerate.state import AcceleratorState

    import train_lora

    AcceleratorState._reset_state(reset_partial_state=True)
    return train_lora.main([str(word) for word in argv])


def killed_at_step_7(start, flags, whole: Path, cut: Path) -> None:
    """The same run once as a whole, once killed and gone on with."""
    assert run_here(*flags, "--output_dir", whole) == 0
    running = start(*flags, "--output_dir", cut)
    running.wait_for_step(cut, 7)
    running.kill()
    assert running.wait().code == -signal.SIGKILL
    assert run_here(*next_argv(cut)) == 0


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_run_ends_with_the_same_bytes_and_a_proven_file(start, tmp_path, family, precision):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flags = replaced([*flags_of(family, tmp_path, precision), "--checkpointing_steps", "5"], lora_layers="all-linear")
    killed_at_step_7(start, flags, whole, cut)
    assert (cut / FILE).read_bytes() == (whole / FILE).read_bytes()
    assert [row["loss"] for row in metrics(cut)] == [row["loss"] for row in metrics(whole)]
    found = result_of(whole)
    assert found["verification"]["error"] <= 1e-5
    assert found["peak_memory"] > 0
    assert all(value.isfinite().all() for value in load_file(whole / FILE).values())
    pictures = sorted((whole / "samples").rglob("*.png"))
    assert pictures
    assert all(np.asarray(Image.open(path)).std() > 1 for path in pictures)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_goes_on_bit_for_bit(start, tmp_path, kind):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flags = dedupe([*flags_of("sdxl", tmp_path, "bf16"), "--checkpointing_steps", "5", *KINDS[kind]])
    killed_at_step_7(start, flags, whole, cut)
    assert (cut / FILE).read_bytes() == (whole / FILE).read_bytes()
    assert result_of(whole)["verification"]["error"] <= 1e-5


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_goes_on_bit_for_bit(start, tmp_path, optimizer):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flags = replaced(flags_of("sd", tmp_path, "bf16"), learning_rate=OPTIMIZERS[optimizer])
    flags += ["--checkpointing_steps", "5", "--optimizer", optimizer]
    killed_at_step_7(start, flags, whole, cut)
    assert (cut / FILE).read_bytes() == (whole / FILE).read_bytes()


def test_half_precision_that_overflows_scales_down_and_trains(tmp_path, monkeypatch):
    """2^30 is far too much for a gradient in float16; the scaler halves it at every step that it leaves out."""
    monkeypatch.setattr("torch.amp.GradScaler.__init__", _starting_at(2.0**30))
    out = tmp_path / "out"
    flags = replaced(flags_of("sd", tmp_path, "fp16"), max_train_steps=40)
    assert run_here(*flags, "--output_dir", out) == 0
    rows = metrics(out)
    overflowed = [row["step"] for row in rows if not np.isfinite(float(row["grad_norm"]))]
    assert overflowed[0] == 1  # and now and then one later, whose gradient is larger
    assert len(overflowed) < 20
    assert result_of(out)["verification"]["effect"] > 0


def _starting_at(scale: float):
    start = torch.amp.GradScaler.__init__

    def changed(self, *args, **kwargs):
        start(self, *args, **{**kwargs, "init_scale": scale})

    return changed


def test_the_launcher_runs_it_on_the_gpu(tmp_path):
    out, root = tmp_path / "out", Path(__file__).parents[2]
    flags = flags_of("sd", tmp_path, "bf16")[:-2]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(root / "accelerate_configs/single_gpu.yaml"), str(root / "train_lora.py"), *flags]
    ended = subprocess.run([*command, "--output_dir", str(out)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert status(out)["state"] == "done"
    plan = dict(json.loads((out / "environment.json").read_text(encoding="utf-8"))["plan"])
    assert plan["precision"].startswith("bf16")


def test_a_captured_step_is_that_step_also_when_its_memory_would_be_wanted_by_others():
    from pipeline.starter.build import parts, quick

    unet = parts.load_denoiser().requires_grad_(True).to("cuda")
    generator = torch.Generator("cuda").manual_seed(0)

    def batch() -> list[torch.Tensor]:
        latents, target = (torch.randn(8, 4, 32, 32, generator=generator, device="cuda") for _ in range(2))
        index = torch.randint(1000, (8,), generator=generator, device="cuda")
        states = torch.randn(8, parts.MAX_TOKENS, parts.WIDTH, generator=generator, device="cuda")
        return [latents, index, states, target]

    captured = quick.Captured(quick.InHalf(unet).learn, list(unet.parameters()), batch())
    gc.collect()
    others = [torch.full((1 << 20,), torch.nan, device="cuda") for _ in range(64)]  # where freed weights lay
    for _ in range(3):
        given = batch()
        loss = captured(*given)
        found = torch.cat([value.grad.flatten() for value in unet.parameters()])
        unet.zero_grad(set_to_none=True)
        wanted_loss = quick.InHalf(unet).learn(*given)
        wanted = torch.cat([value.grad.flatten() for value in unet.parameters()])
        assert loss.item() == pytest.approx(wanted_loss.item(), rel=1e-3)
        assert torch.cosine_similarity(found, wanted, dim=0) > 0.9999
        with torch.no_grad():
            torch._foreach_mul_(list(unet.parameters()), 0.99)  # the graph reads the weights as they are now
    assert all(value.isnan().all() for value in others)


@pytest.mark.slow
@pytest.mark.parametrize("model", SIZES)
def test_a_denoiser_of_the_published_size_is_trained_and_proven(tmp_path, model):
    """Random weights and one picture a step: what it costs in time and memory, and that the proof has room."""
    from tests.gpu import published

    published.write(model, tmp_path / "model")
    gc.collect()
    torch.cuda.empty_cache()
    out = tmp_path / "out"
    flags = small_flags(tmp_path / "model", make_colours(tmp_path / "data"), tmp_path / "cache")
    flags = replaced(
        flags, resolution=SIZES[model], train_batch_size=1, rank=16, learning_rate="1e-4", lora_layers="attention+mlp"
    )
    more = ["--mixed_precision", "bf16", "--gradient_checkpointing", "--output_dir", out]
    torch.cuda.reset_peak_memory_stats()
    assert run_here(*flags, *more) == 0
    shutil.rmtree(tmp_path / "model")
    seconds = statistics.median(row["seconds"] for row in metrics(out)[2:])
    found = result_of(out)
    print(  # noqa: T201  # for -s
        f"\n{model} at {SIZES[model]}: {seconds:.3f} s/step, {found['peak_memory'] / 2**30:.1f} GiB, "
        f"{torch.cuda.get_device_name()}, {found['verification']}, {found['budget']}"
    )
