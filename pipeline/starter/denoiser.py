"""Training of the denoiser on latents of the world's scenes, a tenth of the captions dropped for guidance."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.objective.paths import VariancePreserving
from pipeline.starter import clip, fitting, parts, pixels, world

BATCH = 32
CAPTION_DROPOUT = 0.1
POOL_SCENES = 24_000  # scenes encoded once; one pass over them is 750 steps
SHARD_SCENES = 2_000
PLAN = fitting.Fit("denoiser", num_steps=1750, learning_rate=1e-3, weight_decay=0.01, ema_decay=0.998)


def train(folder: Path, autoencoder: Any, towers: clip.Towers, tokenizer: Any, seed: int = 0) -> Any:
    """Train the denoiser; resumes from `folder`, where the encoded scenes are kept too."""
    torch.manual_seed(seed)
    unet = parts.build_denoiser()
    scheduler = parts.build_scheduler()
    path = VariancePreserving(scheduler.alphas_cumprod, "v_prediction")
    encoded = encode_pool(folder / "pool", autoencoder, seed)
    with torch.no_grad():
        null = towers.text(input_ids=clip.tokenize(tokenizer, [""])).last_hidden_state[0]

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        order = torch.randperm(POOL_SCENES, generator=torch.Generator().manual_seed(step * BATCH // POOL_SCENES))
        first = step * BATCH % POOL_SCENES
        chosen = order[first : first + BATCH]
        captions = [world.training_scene(seed, int(index))[1] for index in chosen]
        with torch.no_grad():
            states = towers.text(input_ids=clip.tokenize(tokenizer, captions)).last_hidden_state
        dropped = torch.rand(len(chosen), generator=generator) < CAPTION_DROPOUT
        states = torch.where(dropped[:, None, None], null, states)
        x_0 = encoded[chosen].float()
        t = path.time((torch.arange(len(chosen)) + torch.rand(len(chosen), generator=generator)) / len(chosen))
        noised = path.noise(x_0, torch.randn(x_0.shape, generator=generator), t)
        prediction = unet(noised.x_t, path.index(t), encoder_hidden_states=states).sample
        return (prediction - noised.target).square().mean(), {}

    fitting.fit(PLAN, unet, loss_of, folder)
    return unet


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
                batch = torch.from_numpy(np.stack([pixels.to_array(image) for image in images]))
                rows.append(autoencoder.encode(batch).latent_dist.mean.half())
            save_file({"mean": torch.cat(rows).contiguous()}, path)
        shards.append(load_file(path)["mean"])
    return torch.cat(shards)
