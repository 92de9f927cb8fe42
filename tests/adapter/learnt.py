"""Adapters that have learnt something, of every kind, on a miniature, and what stock diffusers makes of their files."""

from pathlib import Path

import torch
from diffusers import FluxPipeline, StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata

from pipeline.adapter import lora
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.names import FILE
from pipeline.adapter.options import AdapterOptions
from pipeline.families.targets import CLIP_TEXT
from tests.conftest import attach

PATTERNS = {"rank_pattern": "attn2.to_k=8,mid_block.*=2", "alpha_pattern": "to_v=3,attn1.to_v=5"}
KINDS = {
    "alpha": {"rank": 4, "lora_alpha": 10.0},
    "patterns": {"rank": 4, "lora_alpha": 6.0, **PATTERNS},
    "rslora": {"rank": 4, "lora_alpha": 3.0, "use_rslora": True, **PATTERNS},
    "convolutions": {"rank": 3, "lora_alpha": 5.0, "lora_layers": "all-linear+conv"},
    "dora": {"rank": 4, "lora_alpha": 7.0, "use_dora": True, "lora_layers": "all-linear+conv", **PATTERNS},
}


def learnt(family, with_text: bool = True, seed: int = 2, **options) -> AdaptedModels:
    """A miniature's denoiser, and its text encoder, with random adapters on them."""
    pipe = family.load(family.denoiser, *(["text_encoder"] if with_text else []))
    models = {family.denoiser: getattr(pipe, family.denoiser).eval()}
    attach(models[family.denoiser], AdapterOptions(**options), family.targets)
    if with_text:
        models["text_encoder"] = pipe.text_encoder.eval()
        attach(models["text_encoder"], AdapterOptions(rank=3, lora_alpha=2.0, lora_layers="attention"), CLIP_TEXT)
    generator = torch.Generator().manual_seed(seed)
    for value in AdaptedModels(models).parameters().values():
        value.data += torch.randn(value.shape, generator=generator) * 0.1
    return AdaptedModels(models)


def outputs(pipe) -> torch.Tensor:
    """What the text encoder and the denoiser of a Stable Diffusion give for fixed inputs, in one row."""
    generator = torch.Generator().manual_seed(2)
    x_t = torch.randn(2, 4, 16, 16, generator=generator)
    tokens = torch.randint(0, 200, (2, 77), generator=generator)
    with torch.no_grad():
        states = pipe.text_encoder(tokens)[0]
        prediction = pipe.unet(x_t, torch.tensor([10, 900]), states).sample
    return torch.cat([states.flatten(), prediction.flatten()])


def stock(folder: Path, file: Path | None = None) -> StableDiffusionPipeline:
    """Plain diffusers with an adapter."""
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    if file is not None:
        pipe.load_lora_weights(file.parent, weight_name=file.name)
    return pipe


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert (value - second[name]).norm() <= tolerance * second[name].norm(), name


def with_header(adapted: AdaptedModels, folder: Path) -> Path:
    """As diffusers' own scripts save it: B as it was trained, alphas in the header."""
    states = {f"{name}_lora_layers": lora.state(model) for name, model in adapted.models.items()}
    kind = FluxPipeline if "transformer" in adapted.models else StableDiffusionPipeline
    kind.save_lora_weights(folder, **states, **_collate_lora_metadata(adapted.models))
    return folder / FILE
