"""The published models that `bench gpu` measures, from their configurations: nothing is downloaded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "published_models"


@dataclass(frozen=True)
class Published:
    """A model as it was published: what its denoiser is given, and how its other parts are configured."""

    name: str
    title: str
    family: str
    size: int  # of the pictures, in pixels
    factor: int  # pixels of one latent
    text: Mapping[str, tuple[int, ...]]  # embeddings of one caption, by the pipeline's names
    encoders: Mapping[str, Mapping[str, int]]  # widths that the configurations of its text encoders say
    depth: tuple[str, ...] = ("num_layers",)  # what counts its blocks, where it can be cut short
    batches: tuple[int, ...] = (1, 4, 8, 16)
    vae: Mapping[str, Any] = field(default_factory=dict)

    def config(self, num_blocks: int | None = None) -> dict[str, Any]:
        """The denoiser's configuration; with `num_blocks` a model of so many blocks and its full width."""
        found = config(self.name)
        if num_blocks is not None:
            whole = sum(int(found[name]) for name in self.depth)
            for name in self.depth:
                found[name] = max(1, round(int(found[name]) * num_blocks / whole))
            if "dual_attention_layers" in found:
                found["dual_attention_layers"] = [n for n in found["dual_attention_layers"] if n < found["num_layers"]]
        return found

    @property
    def num_blocks(self) -> int:
        """How many blocks it has; 0 for a UNet, which cannot be cut short."""
        found = config(self.name)
        return sum(int(found.get(name, 0)) for name in self.depth)


def config(name: str) -> dict[str, Any]:
    """A published configuration."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


CLIP_L = {"hidden_size": 768, "projection_dim": 768, "num_attention_heads": 12}
CLIP_G = {"hidden_size": 1280, "projection_dim": 1280, "num_attention_heads": 20}
T5_XXL = {"d_model": 4096, "d_kv": 64, "num_heads": 64}
GEMMA_2B = {"hidden_size": 2304, "head_dim": 256, "num_attention_heads": 8, "num_key_value_heads": 4}
WIDE = {"block_out_channels": [128, 256, 512, 512]}

MODELS = {
    model.name: model
    for model in (
        Published(
            "sd15", "SD 1.5 @512", "sd", 512, 8, {"prompt_embeds": (77, 768)}, {"text_encoder": CLIP_L}, (),
            (1, 4, 8, 16, 32, 64),
        ),
        Published(
            "sdxl", "SDXL @1024", "sdxl", 1024, 8,
            {"prompt_embeds": (77, 2048), "pooled_prompt_embeds": (1280,)},
            {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G}, (),
        ),
        Published(
            "sd35_medium", "SD3.5-M @1024", "sd3", 1024, 8,
            {"prompt_embeds": (333, 4096), "pooled_prompt_embeds": (2048,)},
            {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G, "text_encoder_3": T5_XXL},
        ),
        Published(
            "flux_dev", "FLUX.1-dev @1024", "flux", 1024, 8,
            {"prompt_embeds": (512, 4096), "pooled_prompt_embeds": (768,)},
            {"text_encoder": CLIP_L, "text_encoder_2": T5_XXL}, ("num_layers", "num_single_layers"), (1, 2, 4),
        ),
        Published(
            "sana", "Sana 1.5 1.6B @1024", "sana", 1024, 32,
            {"prompt_embeds": (300, 2304), "prompt_attention_mask": (300,)}, {"text_encoder": GEMMA_2B},
        ),
        Published(
            "lumina2", "Lumina-Image 2.0 @1024", "lumina2", 1024, 8,
            {"prompt_embeds": (256, 2304), "prompt_attention_mask": (256,)}, {"text_encoder": GEMMA_2B},
        ),
    )
}  # fmt: skip
