"""What reads a picture against a caption: CLIP, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.evaluation.estimates import Z_95, Estimate, student_95

BATCH_PICTURES = 32


@dataclass(frozen=True)
class Reader:
    """A model that puts pictures and captions into one space, and what it is called."""

    name: str
    pictures: Callable[[list[Image.Image]], Float[Tensor, "n d"]]
    captions: Callable[[list[str]], Float[Tensor, "n d"]]


def margins(images: Float[Tensor, "n d"], captions: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """How much nearer each picture is to its own caption than to the others': cosine minus the mean of the others.

    A bare CLIP score (Hessel et al. 2021) rises with whatever all captions share; the margin does not.
    Pictures with equal captions are no 'others' to each other; a picture without any other has margin 0.
    """
    images, captions = (torch.nn.functional.normalize(value.double(), dim=-1) for value in (images, captions))
    cosine = images @ captions.T
    other = (captions @ captions.T < 1 - 1e-6).double()
    mean = (cosine * other).sum(1) / other.sum(1).clamp(min=1)
    return torch.where(other.sum(1) > 0, cosine.diagonal() - mean, 0.0).float()


def mean_of(name: str, values: Float[Tensor, " n"]) -> Estimate:
    """A mean over pictures with Student's interval; infinite for one picture."""
    n, mean = len(values), values.double().mean().item()
    half = float("inf")
    if n > 1:
        half = (student_95(n - 1) if n < 10_000 else Z_95) * values.double().std().item() / n**0.5
    return Estimate(name, mean, mean - half, mean + half, n)


def clip_reader(folder: str, cache_dir: str | None) -> Reader:
    """A CLIP model in transformers' layout, from a folder or the Hub. Raises CheckpointError if it is none."""
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    local = Path(folder).is_dir()
    try:
        options = {"cache_dir": cache_dir, "local_files_only": local}
        model = CLIPModel.from_pretrained(folder, dtype=torch.float32, **options).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        processor = CLIPImageProcessor.from_pretrained(folder, **options)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"--clip_model_name_or_path {folder} cannot be loaded as CLIP: {error}") from error
    limit = model.config.text_config.max_position_embeddings

    @torch.no_grad()
    def pictures(images: list[Image.Image]) -> Tensor:
        rows = []
        for first in range(0, len(images), BATCH_PICTURES):
            batch = [image.convert("RGB") for image in images[first : first + BATCH_PICTURES]]
            seen = model.vision_model(processor(batch, return_tensors="pt").pixel_values).pooler_output
            rows.append(model.visual_projection(seen))
        return torch.cat(rows)

    @torch.no_grad()
    def captions(texts: list[str]) -> Tensor:
        words = tokenizer(texts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        read: Tensor = model.text_projection(model.text_model(**words).pooler_output)
        return read

    return Reader(Path(folder).name if local else folder, pictures, captions)
