"""The work that a LoRA step cannot do without, counted; and the most products of matrices a device does in a second."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.adapter import lora
from pipeline.adapter.layers import target_modules
from pipeline.adapter.options import AdapterOptions
from pipeline.conditioning import Conditioning
from pipeline.families.base import Family
from pipeline.geometry import Size, whole

SIDE, SMALL_SIDE = 8192, 512  # of the matrices, on a GPU and on a CPU
SECONDS = 1.0  # that the peak is looked for


def of_step(family: Family, configuration: Mapping[str, Any], text: Mapping[str, tuple[int, ...]], size: Size) -> float:
    """Floating-point operations of forward and backward for one example; what is recomputed for memory does not count.

    `configuration` is the denoiser's, `text` the shapes of the embeddings of a caption. Counted without weights, or,
    for models that look at the values of masks, where there are some to look at.
    """
    try:
        return _counted(family, configuration, text, size, torch.device("meta"))
    except (NotImplementedError, RuntimeError):
        device = torch.accelerator.current_accelerator() or torch.device("cpu")
        return _counted(family, configuration, text, size, device)


def _counted(
    family: Family,
    configuration: Mapping[str, Any],
    text: Mapping[str, tuple[int, ...]],
    size: Size,
    device: torch.device,
) -> float:
    import diffusers

    with torch.device(device):
        model = getattr(diffusers, configuration["_class_name"]).from_config(dict(configuration))
    options = AdapterOptions(rank=16, lora_layers="attention")
    lora.attach(model, options, target_modules(model, options, family.targets), seed=0)
    model.train()
    named: dict[str, Any] = {
        name: torch.ones((1, *shape), dtype=torch.long if "mask" in name else torch.float32, device=device)
        for name, shape in text.items()
    }
    named |= {name: value[None].to(device) for name, value in family.size_states(whole(size)).items()}
    latents = torch.zeros(1, *family.latent_shape(size), device=device)
    counter = FlopCounterMode(display=False)
    with counter:
        prediction = family.denoise(model, latents, torch.full((1,), 0.5, device=device), Conditioning(named))
        prediction.square().mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return float(counter.get_total_flops())


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second in the product of two large matrices of random numbers: the best of many."""
    side = SIDE if device.type == "cuda" else SMALL_SIDE
    first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best, until = float("inf"), time.monotonic() + SECONDS
    while time.monotonic() < until:
        started = _clock(device)
        for _ in range(4):
            torch.mm(first, second)
        best = min(best, (_clock(device) - started) / 4)
    return 2 * side**3 / best


def _clock(device: torch.device) -> float:
    """Now, once the device has done what it was given; of a CPU the seconds that this process computed."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
