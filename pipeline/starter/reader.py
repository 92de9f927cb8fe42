"""The CLIP towers that were trained together: the base's text tower, and the vision tower beside it."""

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pipeline import shipped
from pipeline.evaluation.extractors.extractor import BATCH_PICTURES, Extractor, version_of
from pipeline.starter import world

KIND = "clip"
NAME = "starter-clip (trained by t2i-lora, with the starter base)"


def load() -> Extractor:
    """The towers that ship."""
    from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

    vision = CLIPVisionModelWithProjection.from_pretrained(shipped.VISION, dtype=torch.float32).eval()
    text = CLIPTextModel.from_pretrained(shipped.BASE / "text_encoder").eval()
    tokenizer = CLIPTokenizer.from_pretrained(shipped.BASE / "tokenizer")
    projection = load_file(shipped.VISION / "text_projection.safetensors")["weight"].float()
    side = (world.SIDE_PIXELS, world.SIDE_PIXELS)

    @torch.no_grad()
    def pictures(images: list[Image.Image]) -> Tensor:
        rows = []
        for first in range(0, len(images), BATCH_PICTURES):
            batch = [image.convert("RGB").resize(side) for image in images[first : first + BATCH_PICTURES]]
            values = torch.from_numpy(np.stack([world.to_array(image) for image in batch]))
            rows.append(vision(pixel_values=values).image_embeds)
        return torch.cat(rows)

    @torch.no_grad()
    def captions(texts: list[str]) -> Tensor:
        tokens = tokenizer(
            texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        ).input_ids
        read: Tensor = text(input_ids=tokens).pooler_output @ projection.T
        return read

    return Extractor(
        kind=KIND,
        name=NAME,
        version=version_of(vision, side),
        features=pictures,
        captions=captions,
        takes_distances=False,  # the base learnt from its text tower: it would judge its own pupil
    )
