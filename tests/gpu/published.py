"""Bases of the published sizes with random weights: what they compute is nothing, what they cost is real."""

import functools
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from pipeline.bench import published
from pipeline.families.miniatures import parts as miniatures

FAMILIES = {"sd15": "sd", "sdxl": "sdxl", "sd35_medium": "sd3", "flux_dev": "flux"}


def write(model: str, folder: Path) -> None:
    """Write the family's miniature with its denoiser, its autoencoder and the widths of its encoders life-size."""
    pipe = import_module(f"pipeline.families.miniatures.{FAMILIES[model]}").build(None)
    denoiser = "unet" if hasattr(pipe, "unet") else "transformer"
    config = published.config(model)
    makers: dict[str, Callable[[], Any]] = {
        denoiser: lambda: getattr(diffusers, config["_class_name"]).from_config(config),
        "vae": lambda: _autoencoder(pipe.vae.config),
    }
    makers |= {name: functools.partial(_encoder, part) for name, part in _encoders(pipe).items()}
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            pipe.register_modules(**{name: make() for name, make in makers.items()})
    finally:
        torch.set_default_dtype(torch.float32)
    pipe.save_pretrained(folder)


def _encoders(pipe: Any) -> dict[str, Any]:
    parts = {name: getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2", "text_encoder_3")}
    return {name: part for name, part in parts.items() if part is not None}


def _autoencoder(small: Any) -> Any:
    """Stable Diffusion's, with the channels and factors of the family."""
    widths = (128, 256, 512, 512)
    config = {**small, "block_out_channels": widths, "layers_per_block": 2, "norm_num_groups": 32}
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    return diffusers.AutoencoderKL.from_config({**config, **kinds})


def _encoder(small: Any) -> Any:
    """CLIP as published but for its vocabulary; T5 as wide as XXL but two layers deep, for it is not trained."""
    config = small.config
    if config.model_type == "t5":
        widths = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64}
        return transformers.T5EncoderModel(transformers.T5Config(**{**config.to_dict(), **widths}))
    name = "sd15_text_encoder" if config.hidden_size == miniatures.WIDTH else "sdxl_text_encoder_2"
    whole = published.config(name)
    own = {key: getattr(config, key) for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    return type(small)(transformers.CLIPTextConfig(**{**whole, **own}))
