"""The CLIP towers that were trained together, as a reader: the base's text tower, and the vision tower beside it."""

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pipeline import starter
from pipeline.evaluation.readers import BATCH_PICTURES, Reader
from pipeline.starter import parts, pixels, world

NAME = "starter-clip"


def load() -> Reader:
    """The reader that ships."""
    from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

    vision = CLIPVisionModelWithProjection.from_pretrained(parts.VISION, dtype=torch.float32).eval()
    text = CLIPTextModel.from_pretrained(starter.BASE / "text_encoder").eval()
    tokenizer = CLIPTokenizer.from_pretrained(starter.BASE / "tokenizer")
    projection = load_file(parts.VISION / "text_projection.safetensors")["weight"].float()
    side = (world.SIDE_PIXELS, world.SIDE_PIXELS)

    @torch.no_grad()
    def pictures(images: list[Image.Image]) -> Tensor:
        rows = []
        for first in range(0, len(images), BATCH_PICTURES):
            batch = [image.convert("RGB").resize(side) for image in images[first : first + BATCH_PICTURES]]
            values = torch.from_numpy(np.stack([pixels.to_array(image) for image in batch]))
            rows.append(vision(pixel_values=values).image_embeds)
        return torch.cat(rows)

    @torch.no_grad()
    def captions(texts: list[str]) -> Tensor:
        tokens = tokenizer(
            texts, padding="max_length", max_length=parts.MAX_TOKENS, truncation=True, return_tensors="pt"
        ).input_ids
        read: Tensor = text(input_ids=tokens).pooler_output @ projection.T
        return read

    return Reader(NAME, pictures, captions)
