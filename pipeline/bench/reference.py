"""The loop people write first, with diffusers' public pieces: python -m pipeline.bench.reference FOLDER NUM_STEPS.

Every step opens its pictures, encodes them and their captions, noises, predicts and steps AdamW, as
diffusers' train_text_to_image_lora.py does. Only the random numbers and the order of the examples are
ours, so that both programs do the same work and their losses can be compared.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from peft import LoraConfig
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from pipeline import rng, shipped
from pipeline.adapter.names import is_a
from pipeline.bench.setting import BATCH, RANK, RATE, SEED
from pipeline.data.buckets import together
from pipeline.data.manifest import Example
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.data.rows import FileSource
from pipeline.data.sampler import StepSampler


def main(folder: Path, num_steps: int) -> None:
    """Train; the losses are written to FOLDER/reference.json."""
    base = shipped.BASE
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(base / "text_encoder").requires_grad_(False)
    vae = AutoencoderKL.from_pretrained(base / "vae").requires_grad_(False)
    unet = UNet2DConditionModel.from_pretrained(base / "unet").requires_grad_(False)
    scheduler = DDPMScheduler.from_pretrained(base / "scheduler")
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=targets))
    trained = {name: value for name, value in unet.named_parameters() if value.requires_grad}
    for name, value in trained.items():
        if is_a(name):
            value.data = rng.normal(SEED, 0, name, "adapter", tuple(value.shape)) / RANK
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=0.01)
    rates = get_scheduler("constant", optimizer, num_warmup_steps=0, num_training_steps=num_steps)
    examples = read_manifest(shipped.TRAIN, DataOptions()).examples
    sampler = StepSampler(together(len(examples), examples[0].size), BATCH, SEED)
    losses = []
    unet.train()
    for step in range(num_steps):
        rows = [drawn(examples[place.index], place.epoch) for place in sampler.step(step)]
        with torch.no_grad():
            posterior = vae.encode(torch.stack([row["pixels"] for row in rows])).latent_dist
            sample = posterior.mean + posterior.std * torch.stack([row["posterior"] for row in rows])
            latents = sample * vae.config.scaling_factor
            tokens = tokenizer(
                [row["caption"] for row in rows],
                padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt",
            )  # fmt: skip
            states = text_encoder(tokens.input_ids)[0]
        noise, t = torch.stack([row["noise"] for row in rows]), torch.tensor([row["t"] for row in rows])
        target = scheduler.get_velocity(latents, noise, t)
        loss = F.mse_loss(unet(scheduler.add_noise(latents, noise, t), t, states).sample, target)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    (folder / "reference.json").write_text(json.dumps({"losses": losses}), encoding="utf-8")


def drawn(example: Example, epoch: int) -> dict[str, Any]:
    """One example, read from its file, with the random numbers that belong to it."""
    assert isinstance(example.source, FileSource)
    with Image.open(example.source.path) as file:
        pixels = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1
    names = ("posterior", "noise")
    normal: dict[str, Tensor] = {name: rng.normal(SEED, epoch, example.id, name, latent_shape()) for name in names}
    dropped = rng.uniform(SEED, epoch, example.id, "caption dropout") < 0.1
    t = int(rng.uniform(SEED, epoch, example.id, "time") * 1000)
    return {"pixels": pixels, "caption": "" if dropped else example.caption, "t": t, **normal}


@functools.cache
def latent_shape() -> tuple[int, int, int]:
    """Channels, height and width of the starter base's latents."""
    config = json.loads((shipped.BASE / "unet" / "config.json").read_text(encoding="utf-8"))
    return config["in_channels"], config["sample_size"], config["sample_size"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
