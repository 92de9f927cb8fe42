"""Contrastive training of the two CLIP towers (Radford et al. 2021, fig. 3); the text tower is then frozen."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline import shipped
from pipeline.starter import world
from pipeline.starter.build import fitting, parts, pixels, pool
from pipeline.starter.build.plans import Ground, order

RESTYLED_SHARE = 0.4  # pictures whose colours are redrawn, so that the vision tower also reads styles


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


def example(seed: int, index: int) -> tuple[Image.Image, str]:
    """A scene and its caption; where the colours are redrawn, the caption names none."""
    scene, caption = world.training_scene(seed, index)
    generator = np.random.default_rng((seed, 3, index))
    if generator.random() >= RESTYLED_SHARE:
        return scene.image(), caption
    templates = world.COLOURLESS_TEMPLATES
    caption = scene.caption(templates[int(generator.integers(len(templates)))])
    return pixels.restyled(scene.image(), generator), caption


def load(folder: Path | None = None) -> tuple[Towers, Any]:
    """The towers and their tokenizer from a folder that `save` wrote, or those that ship."""
    from transformers import CLIPTokenizer

    text_folder, vision_folder = (folder, folder / "vision") if folder else (shipped.BASE, shipped.VISION)
    tokenizer = CLIPTokenizer.from_pretrained(text_folder / "tokenizer")
    text, vision = parts.build_text_encoder(tokenizer), parts.build_vision_encoder()
    kept = load_file(text_folder / "text_encoder" / "model.safetensors")
    kept |= {"text_projection.weight": load_file(vision_folder / "text_projection.safetensors")["weight"].float()}
    kept = {name.removeprefix("text_model."): value for name, value in kept.items()}
    text.load_state_dict({name: kept[name.removeprefix("text_model.")] for name in text.state_dict()})
    vision.load_state_dict(load_file(vision_folder / "model.safetensors"))
    return Towers(text, vision).eval().requires_grad_(False), tokenizer


def save(towers: Towers, tokenizer: Any, folder: Path) -> None:
    """Keep towers and tokenizer, the text tower in float32: transformers opens a file in the precision it has."""
    tokenizer.save_pretrained(folder / "tokenizer")
    plain_text_encoder(towers).save_pretrained(folder / "text_encoder")
    save_vision(towers, folder / "vision")


def save_vision(towers: Towers, folder: Path) -> None:
    """Keep the vision tower and, beside it, the text tower's projection, both in float16."""
    towers.vision.half().save_pretrained(folder)
    projection = {"weight": towers.text.text_projection.weight.detach().half().contiguous()}
    save_file(projection, folder / "text_projection.safetensors")


def plain_text_encoder(towers: Towers) -> Any:
    """The text tower without its projection, as a Stable Diffusion pipeline holds it."""
    from transformers import CLIPTextModel

    encoder = CLIPTextModel(towers.text.config)
    wanted = encoder.state_dict()
    found = {name.removeprefix("text_model."): value for name, value in towers.text.state_dict().items()}
    encoder.load_state_dict({name: found[name.removeprefix("text_model.")] for name in wanted})
    encoder.float()
    return encoder


def train(folder: Path, tokenizer: Any, ground: Ground, *, warm_start: bool = False) -> Towers:
    """Train both towers; resumes from `folder`. A warm start goes on from those that ship, the text tower held still:
    a denoiser that knows its states goes on knowing them."""
    torch.manual_seed(ground.seed)
    if warm_start:
        towers = load()[0].train().requires_grad_(True)
        towers.text.text_model.requires_grad_(False)
    else:
        towers = Towers(parts.build_text_encoder(tokenizer), parts.build_vision_encoder())
    towers.to(ground.device)
    if ground.device.type == "cpu":
        for tower in (towers.text, towers.vision):
            tower.set_attn_implementation("eager")  # the backward pass of torch's fused attention is slow on a CPU
    rendered, captions = pool.rendered(functools.partial(example, ground.seed), 0, ground.num_examples("clip"))
    pictures, tokens = torch.from_numpy(rendered), tokenize(tokenizer, captions)

    def loss_of(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = order(ground, "clip", step)
        values = pool.to_values(pictures[chosen], ground.device)
        with fitting.fast_precision(ground.device):
            logits = towers.logits(values, tokens[chosen].to(ground.device)).float()
        target = torch.arange(len(chosen), device=ground.device)
        loss = (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2
        return loss, {"accuracy": (logits.argmax(1) == target).float().mean()}

    fitting.fit(ground.plan("clip"), towers, loss_of, folder)
    return towers.cpu()
