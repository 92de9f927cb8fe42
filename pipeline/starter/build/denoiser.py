"""Training of the denoiser on latents of the world's scenes, a tenth of the captions dropped for guidance."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import shipped
from pipeline.hashing import digest
from pipeline.objective.paths import VariancePreserving
from pipeline.starter import world
from pipeline.starter.build import clip, fitting, parts, pool, quick
from pipeline.starter.build.plans import Ground, order

CAPTION_DROPOUT = 0.1
SHARD_SCENES = 65_536
ENCODE_BATCH, CAPTION_BATCH = 200, 2000
TIME_MEAN, TIME_STD = 0.2, 1.2  # of the logit of t: what a drawing lacks grows evenly from one end to the other


def example(seed: int, index: int) -> tuple[Image.Image, str]:
    """A scene of the training world and its caption."""
    scene, caption = world.training_scene(seed, index)
    return scene.image(), caption


def train(
    folder: Path, autoencoder: Any, towers: clip.Towers, tokenizer: Any, ground: Ground, *, warm_start: bool = False
) -> Any:
    """Train the denoiser; resumes from `folder`, where the encoded scenes are kept too.

    A warm start takes the denoiser that ships.
    """
    from diffusers.models.attention_processor import AttnProcessor

    torch.manual_seed(ground.seed)
    plan, device = ground.plan("denoiser"), ground.device
    unet = parts.build_denoiser()
    if warm_start and not plan.state_in(folder).exists():
        unet.load_state_dict(load_file(shipped.BASE / "unet" / "diffusion_pytorch_model.safetensors"))
    unet.to(device)
    if device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # the backward pass of torch's fused attention is slow on a CPU
    learn = learner(unet, device, plan.batch)
    path = VariancePreserving(parts.build_scheduler().alphas_cumprod, "v_prediction").to(device)
    latents, captions = encode_pool(folder / "pool", autoencoder.to(device), ground)
    distinct = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    states = encode_captions(towers.to(device), tokenizer, list(distinct))
    said = torch.tensor([distinct[caption] for caption in captions]).to(device)
    null = encode_captions(towers, tokenizer, [""])[0]

    def loss_of(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        chosen, generator = on(device, order(ground, "denoiser", step)), ground.generator(step)
        batch = len(chosen)
        dropped = torch.rand(batch, generator=generator, device=device) < CAPTION_DROPOUT
        conditions = torch.where(dropped[:, None, None], null, states[said[chosen]]).float()
        x_0 = latents[chosen].float()
        even = (torch.arange(batch, device=device) + torch.rand(batch, generator=generator, device=device)) / batch
        t = path.time(times(even), 0)
        sample = path.sample(x_0, torch.randn(x_0.shape, generator=generator, device=device), t)
        return learn(sample.x_t, path.index(t), conditions, sample.target), {}

    fitting.fit(plan, unet, loss_of, folder)
    autoencoder.cpu(), towers.cpu()
    return unet.cpu()


def learner(unet: Any, device: torch.device, batch: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The squared error as a function of (x_t, index, text states, target), float32; on a GPU with its gradient."""
    if device.type == "cpu":

        def loss_of(x_t: Tensor, index: Tensor, states: Tensor, target: Tensor) -> Tensor:
            with fitting.fast_precision(device):
                prediction: Tensor = unet(x_t, index, states).sample
            return (prediction.float() - target).square().mean()

        return loss_of
    side = unet.config.sample_size
    latents = torch.zeros(batch, unet.config.in_channels, side, side, device=device)
    index = torch.zeros(batch, dtype=torch.long, device=device)
    states = torch.zeros(batch, parts.MAX_TOKENS, parts.WIDTH, device=device)
    return quick.Captured(quick.InHalf(unet).learn, list(unet.parameters()), [latents, index, states, latents])


def on(device: torch.device, numbers: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """Numbers of the CPU on the device, which is not waited for."""
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers.to(device)


def times(u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Uniform numbers in (0, 1) to times of a logit-normal density (Esser et al. 2024, eq. 19)."""
    return torch.sigmoid(TIME_MEAN + TIME_STD * torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4)))


@torch.no_grad()
def encode_captions(towers: clip.Towers, tokenizer: Any, captions: list[str]) -> Tensor:
    """Text states of captions as the denoiser is conditioned on them, [n, MAX_TOKENS, WIDTH] float16."""
    device = towers.log_scale.device
    batches = [captions[first : first + CAPTION_BATCH] for first in range(0, len(captions), CAPTION_BATCH)]
    tokens = [clip.tokenize(tokenizer, batch).to(device) for batch in batches]
    return torch.cat([towers.text(input_ids=batch).last_hidden_state.half() for batch in tokens])


@torch.no_grad()
def encode_pool(folder: Path, autoencoder: Any, ground: Ground) -> tuple[Tensor, list[str]]:
    """Latent means of the training scenes, [n, c, h, w] float16 on the device, and their captions.

    They are kept in shards, in a folder named by the autoencoder's weights: others have latents of their own.
    """
    weights = [value.cpu().numpy().tobytes() for value in autoencoder.state_dict().values()]
    folder = folder / digest(b"".join([*weights, b"with captions"]))
    folder.mkdir(parents=True, exist_ok=True)
    number, shards, captions = ground.num_examples("denoiser"), [], []
    for first in range(0, number, SHARD_SCENES):
        last = min(first + SHARD_SCENES, number)
        path = folder / f"{first:06d}-{last:06d}.safetensors"
        if not path.exists():
            pictures, said = pool.rendered(functools.partial(example, ground.seed), first, last)
            batches = torch.split(torch.from_numpy(pictures), ENCODE_BATCH)
            values = (pool.to_values(batch, ground.device) for batch in batches)
            means = torch.cat([autoencoder.encode(batch).latent_dist.mean.half() for batch in values])
            save_file({"mean": means.contiguous()}, path, metadata={"captions": json.dumps(said)})
        with safe_open(path, framework="pt", device=str(ground.device)) as shard:
            shards.append(shard.get_tensor("mean"))
            captions += json.loads(shard.metadata()["captions"])
    return torch.cat(shards), captions
