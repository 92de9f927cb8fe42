"""The step that diffusers' own scripts take, from its public pieces: PEFT, AdamW, autocast, two reads of the device."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipeline.adapter.layers import target_modules
from pipeline.adapter.options import AdapterOptions
from pipeline.bench.watching import Watch
from pipeline.conditioning import Conditioning
from pipeline.families.base import Family
from pipeline.families.schedules import is_flow

Points = tuple[Float[Tensor, "b c h w"], Float[Tensor, " b"], Float[Tensor, "b c h w"]]  # noisy, times, target


def train(
    family: Family,
    model: Any,
    latents: Float[Tensor, "b c h w"],
    conditioning: Conditioning,
    *,
    rank: int,
    watch: Watch,
) -> None:
    """Train a loaded denoiser on one cached batch again and again, as long as the watch wants."""
    from diffusers.optimization import get_scheduler
    from peft import LoraConfig

    model.requires_grad_(False)
    chosen = target_modules(model, AdapterOptions(rank=rank, lora_layers="attention"), family.targets)
    targets = [site.name for site in chosen]
    model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets))
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
    rates = get_scheduler("constant", optimizer, num_warmup_steps=0, num_training_steps=watch.num_steps)
    noised = _noised(family, latents)
    model.train()
    for step in range(watch.num_steps):
        watch(step)
        x_t, t, target = next(noised)
        with _autocast(latents.device):
            prediction = family.denoise(model, x_t.to(model.dtype), t, conditioning)
        loss = F.mse_loss(prediction.float(), target.float())
        _ = loss.repeat(len(latents)).mean().item()  # the mean that is logged
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        _ = loss.detach().item()  # what the progress bar shows
    watch(watch.num_steps)


def _noised(family: Family, latents: Float[Tensor, "b c h w"]) -> Iterator[Points]:
    """Noisy latents, their times in [0, 1] and the target, drawn anew for each step."""
    from diffusers import DDPMScheduler

    configuration = family.part_config("scheduler")
    scheduler = None if is_flow(configuration) else DDPMScheduler.from_config(configuration)
    while True:
        noise = torch.randn_like(latents)
        if scheduler is None:
            t = torch.sigmoid(torch.randn(len(latents), device=latents.device))
            sigma = t[:, None, None, None]
            yield (1 - sigma) * latents + sigma * noise, t, noise - latents
        else:
            count = scheduler.config.num_train_timesteps
            index = torch.randint(0, count, (len(latents),), device=latents.device)
            yield scheduler.add_noise(latents, noise, index), index / count, noise


def _autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """What accelerate wraps a model in that is trained in bfloat16."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()
