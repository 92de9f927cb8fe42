"""Training of the denoiser on latents of the world's scenes, a tenth of the captions dropped for guidance."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import shipped
from pipeline.objective.paths import VariancePreserving
from pipeline.starter import world
from pipeline.starter.build import clip, fitting, parts

BATCH = 32
CAPTION_DROPOUT = 0.1
POOL_SCENES = 48_000  # scenes encoded once; one pass over them is 1,500 steps
SHARD_SCENES = 2_000
TIME_MEAN, TIME_STD = 0.5, 1.2  # of the logit of t: most steps where shapes form, few where only texture is left
PLAN = fitting.Fit("denoiser", num_steps=14_000, learning_rate=1e-3, decay_share=0.3, ema_decay=0.999)


def train(
    folder: Path, autoencoder: Any, towers: clip.Towers, tokenizer: Any, seed: int = 0, *, warm_start: bool = False
) -> Any:
    """Train the denoiser; resumes from `folder`, where the encoded scenes are kept too.

    A warm start takes the denoiser that ships.
    """
    from diffusers.models.attention_processor import AttnProcessor

    torch.manual_seed(seed)
    unet = parts.build_denoiser()
    if warm_start and not PLAN.state_in(folder).exists():
        unet.load_state_dict(load_file(shipped.BASE / "unet" / "diffusion_pytorch_model.safetensors"))
    unet.set_attn_processor(AttnProcessor())  # the backward pass of torch's fused attention is slow on a CPU
    scheduler = parts.build_scheduler()
    path = VariancePreserving(scheduler.alphas_cumprod, "v_prediction")
    latents = encode_pool(folder / "pool", autoencoder, seed)
    states = encode_captions(towers, tokenizer, [world.training_scene(seed, index)[1] for index in range(POOL_SCENES)])
    null = encode_captions(towers, tokenizer, [""])[0]

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        order = torch.randperm(POOL_SCENES, generator=torch.Generator().manual_seed(step * BATCH // POOL_SCENES))
        first = step * BATCH % POOL_SCENES
        chosen = order[first : first + BATCH]
        dropped = torch.rand(len(chosen), generator=generator) < CAPTION_DROPOUT
        conditions = torch.where(dropped[:, None, None], null, states[chosen]).float()
        x_0 = latents[chosen].float()
        t = path.time(
            times((torch.arange(len(chosen)) + torch.rand(len(chosen), generator=generator)) / len(chosen)), 0
        )
        sample = path.sample(x_0, torch.randn(x_0.shape, generator=generator), t)
        with fitting.fast_precision():
            prediction = unet(sample.x_t, path.index(t), encoder_hidden_states=conditions).sample
        return (prediction.float() - sample.target).square().mean(), {}

    fitting.fit(PLAN, unet, loss_of, folder)
    return unet


def times(u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Uniform numbers in (0, 1) to times of a logit-normal density (Esser et al. 2024, eq. 19)."""
    return torch.sigmoid(TIME_MEAN + TIME_STD * torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4)))


@torch.no_grad()
def encode_captions(towers: clip.Towers, tokenizer: Any, captions: list[str]) -> Tensor:
    """Text states of captions as the denoiser is conditioned on them, [n, MAX_TOKENS, WIDTH] float16."""
    rows = [
        towers.text(input_ids=clip.tokenize(tokenizer, captions[first : first + 250])).last_hidden_state.half()
        for first in range(0, len(captions), 250)
    ]
    return torch.cat(rows)


@torch.no_grad()
def encode_pool(folder: Path, autoencoder: Any, seed: int) -> Tensor:
    """Latent means of the training scenes, [POOL_SCENES, c, 16, 16] float16, kept in shards."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for first in range(0, POOL_SCENES, SHARD_SCENES):
        path = folder / f"{first:06d}.safetensors"
        if not path.exists():
            rows = []
            for start in range(first, first + SHARD_SCENES, 100):
                images = [world.training_scene(seed, index)[0].image() for index in range(start, start + 100)]
                batch = torch.from_numpy(np.stack([world.to_array(image) for image in images]))
                with fitting.fast_precision():
                    rows.append(autoencoder.encode(batch).latent_dist.mean.half())
            save_file({"mean": torch.cat(rows).contiguous()}, path)
        shards.append(load_file(path)["mean"])
    return torch.cat(shards)
