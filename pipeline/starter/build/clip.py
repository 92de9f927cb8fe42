"""Contrastive training of the two CLIP towers (Radford et al. 2021, fig. 3); the text tower is then frozen."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline import shipped
from pipeline.starter import world
from pipeline.starter.build import fitting, parts, pixels

BATCH = 128
RESTYLED_SHARE = 0.4  # pictures whose colours are redrawn, so that the vision tower also reads styles
PLAN = fitting.Fit("clip", num_steps=600, learning_rate=1e-3, weight_decay=0.1, ema_decay=0.99)


class Towers(nn.Module):
    """Text and vision tower with CLIP's learned temperature."""

    def __init__(self, text: Any, vision: Any) -> None:
        super().__init__()
        self.text, self.vision = text, vision
        self.log_scale = nn.Parameter(torch.tensor(2.659))  # ln(1 / 0.07)

    def logits(self, pixel_values: Tensor, tokens: Tensor) -> Tensor:
        """Scaled cosine similarity, [images, captions]."""
        image = nn.functional.normalize(self.vision(pixel_values=pixel_values).image_embeds, dim=-1)
        text = nn.functional.normalize(self.text(input_ids=tokens).text_embeds, dim=-1)
        return self.log_scale.clamp(max=4.6).exp() * image @ text.T


def tokenize(tokenizer: Any, captions: list[str]) -> Tensor:
    """Token ids as the pipeline makes them, [b, MAX_TOKENS]."""
    tokens: Tensor = tokenizer(
        captions, padding="max_length", max_length=parts.MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return tokens


def example(seed: int, index: int) -> tuple[np.ndarray, str]:
    """A scene and its caption; where the colours are redrawn, the caption names none."""
    scene, caption = world.training_scene(seed, index)
    generator = np.random.default_rng((seed, 3, index))
    if generator.random() >= RESTYLED_SHARE:
        return world.to_array(scene.image()), caption
    templates = world.COLOURLESS_TEMPLATES
    caption = scene.caption(templates[int(generator.integers(len(templates)))])
    return world.to_array(pixels.restyled(scene.image(), generator)), caption


def load() -> Towers:
    """The towers that ship."""
    from transformers import CLIPTokenizer

    text = parts.build_text_encoder(CLIPTokenizer.from_pretrained(shipped.BASE / "tokenizer"))
    kept = load_file(shipped.BASE / "text_encoder" / "model.safetensors")
    kept["text_projection.weight"] = load_file(shipped.VISION / "text_projection.safetensors")["weight"].float()
    text.load_state_dict({name: kept[name.removeprefix("text_model.")] for name in text.state_dict()})
    vision = parts.build_vision_encoder()
    vision.load_state_dict(load_file(shipped.VISION / "model.safetensors"))
    return Towers(text, vision)


def train(folder: Path, seed: int = 0, *, warm_start: bool = False) -> Towers:
    """Train both towers; resumes from `folder`. A warm start takes the vision tower that ships."""
    torch.manual_seed(seed)
    tokenizer = parts.build_tokenizer(folder / "tokenizer")
    vision = parts.build_vision_encoder()
    if warm_start:
        vision.load_state_dict(load_file(shipped.VISION / "model.safetensors"))
    towers = Towers(parts.build_text_encoder(tokenizer), vision)
    for tower in (towers.text, towers.vision):
        tower.set_attn_implementation("eager")  # the backward pass of torch's fused attention is slow on a CPU

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = [example(seed, step * BATCH + offset) for offset in range(BATCH)]
        pixel_values = torch.from_numpy(np.stack([pixel for pixel, _ in batch]))
        with fitting.fast_precision():
            logits = towers.logits(pixel_values, tokenize(tokenizer, [text for _, text in batch])).float()
        target = torch.arange(BATCH)
        loss = (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2
        return loss, {"accuracy": (logits.argmax(1) == target).float().mean().item()}

    fitting.fit(PLAN, towers, loss_of, folder)
    return towers
