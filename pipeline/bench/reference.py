"""The loop people write first, from diffusers' public pieces; `bench cpu` starts it.

Every step opens its pictures, encodes them and their captions, noises, predicts and steps AdamW, as
diffusers' train_text_to_image_lora.py does. Only the random numbers and the order of the examples are
ours, so that both programs do the same work and their losses can be compared.
"""

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

from pipeline import rng
from pipeline.adapter.names import is_a
from pipeline.bench.shapes import SHAPES, Shape
from pipeline.data.buckets import together
from pipeline.data.manifest import Example
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.data.rows import FileSource
from pipeline.data.sampler import StepSampler
from pipeline.geometry import Size


def main(folder: Path, shape: Shape, num_steps: int, base: Path, pictures: Path) -> None:
    """Train; the losses are written to FOLDER/reference.json."""
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(base / "text_encoder").requires_grad_(False)
    vae = AutoencoderKL.from_pretrained(base / "vae").requires_grad_(False)
    unet = UNet2DConditionModel.from_pretrained(base / "unet").requires_grad_(False)
    scheduler = DDPMScheduler.from_pretrained(base / "scheduler")
    trained = with_adapter(unet, shape)
    optimizer = torch.optim.AdamW(trained.values(), lr=shape.rate, weight_decay=0.01)
    rates = get_scheduler("constant", optimizer, num_warmup_steps=0, num_training_steps=num_steps)
    examples = read_manifest(pictures, DataOptions()).examples
    sampler = StepSampler(together(len(examples), Size.square(shape.resolution)), shape.batch, shape.seed)
    factor, losses = 2 ** (len(vae.config.block_out_channels) - 1), []
    latents_of = (vae.config.latent_channels, *[shape.resolution // factor] * 2)
    is_v = scheduler.config.prediction_type == "v_prediction"
    unet.train()
    for step in range(num_steps):
        rows = [drawn(examples[place.index], place.epoch, shape, latents_of) for place in sampler.step(step)]
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
        target = scheduler.get_velocity(latents, noise, t) if is_v else noise
        loss = F.mse_loss(unet(scheduler.add_noise(latents, noise, t), t, states).sample, target)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    (folder / "reference.json").write_text(json.dumps({"losses": losses}), encoding="utf-8")


def with_adapter(unet: Any, shape: Shape) -> dict[str, torch.nn.Parameter]:
    """PEFT's adapter on the attention layers, which starts as ours does; returns what is trained, by name."""
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    config = LoraConfig(r=shape.rank, lora_alpha=shape.rank, init_lora_weights="gaussian", target_modules=targets)
    unet.add_adapter(config)
    trained = {name: value for name, value in unet.named_parameters() if value.requires_grad}
    for name, value in trained.items():
        if is_a(name):
            value.data = rng.normal(shape.seed, 0, name, "adapter", tuple(value.shape)) / shape.rank
    return trained


def drawn(example: Example, epoch: int, shape: Shape, latents_of: tuple[int, ...]) -> dict[str, Any]:
    """One example, read from its file, resized and cut, with the random numbers that belong to it."""
    assert isinstance(example.source, FileSource)
    side, seed = shape.resolution, shape.seed
    with Image.open(example.source.path) as file:
        picture = file.convert("RGB")
    if min(picture.size) != side:
        scale = side / min(picture.size)
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
        )
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    cut = picture.crop((left, top, left + side, top + side))
    pixels = torch.from_numpy(np.array(cut)).permute(2, 0, 1).float() / 127.5 - 1
    names = ("posterior", "noise")
    normal: dict[str, Tensor] = {name: rng.normal(seed, epoch, example.id, name, latents_of) for name in names}
    dropped = rng.uniform(seed, epoch, example.id, "caption dropout") < 0.1
    t = int(rng.uniform(seed, epoch, example.id, "time") * 1000)
    return {"pixels": pixels, "caption": "" if dropped else example.caption, "t": t, **normal}


if __name__ == "__main__":
    main(Path(sys.argv[1]), SHAPES[sys.argv[2]], int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
