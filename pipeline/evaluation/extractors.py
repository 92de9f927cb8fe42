"""What measures pictures: networks that turn them into features, and CLIP models that read them against captions.

Beside whatever a base or a user names, a network trained on photographs is asked wherever it is installed.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.evaluation import photographs
from pipeline.families.checkpoint.source import ModelSource

BATCH_PICTURES = 32
BUILT_IN = {"starter": "pipeline.starter.extractors"}  # by the name in the card of a base -> module with load()


@dataclass(frozen=True)
class FeatureExtractor:
    """Features for distances between sets of pictures, and the rank of the right answer where it knows the answers."""

    name: str
    features: Callable[[list[Image.Image]], Float[Tensor, "n d"]]
    ranks: Callable[[list[Image.Image], list[str]], Int[Tensor, " n"]] | None  # pictures, file names -> 0 = at once


@dataclass(frozen=True)
class ImageTextEncoder:
    """A model that puts pictures and captions into one space."""

    name: str
    pictures: Callable[[list[Image.Image]], Float[Tensor, "n d"]]
    captions: Callable[[list[str]], Float[Tensor, "n d"]]


@dataclass(frozen=True)
class Extractors:
    """All that a set of pictures is measured with."""

    features: FeatureExtractor
    encoder: ImageTextEncoder
    photographs: FeatureExtractor | None = None  # evaluation/photographs.py

    @property
    def names(self) -> dict[str, str]:
        """What each is called, by its kind."""
        found = {"features": self.features.name, "encoder": self.encoder.name}
        return found | ({"photographs": self.photographs.name} if self.photographs else {})


def named(option: str | None, source: ModelSource) -> str | None:
    """What is to measure: the model of --clip_model_name_or_path, else what the base's card names, else nothing."""
    given = option or source.card.get("feature_extractor")
    return str(given) if given is not None else None


def load(name: str, pictured: set[str], cache_dir: str | None) -> Extractors:
    """Extractors by name; `pictured` are the files to be measured. Raises CheckpointError for what is no CLIP."""
    if name in BUILT_IN:
        found: Extractors = import_module(BUILT_IN[name]).load(pictured)
    else:
        encoder = clip(name, cache_dir)
        found = Extractors(FeatureExtractor(encoder.name, encoder.pictures, None), encoder)
    if not photographs.is_installed():
        return found
    network = photographs.load()
    judge = FeatureExtractor(photographs.NAME, lambda images: photographs.features(network, images), None)
    return dataclasses.replace(found, photographs=judge)


def clip(folder: str, cache_dir: str | None) -> ImageTextEncoder:
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

    return ImageTextEncoder(Path(folder).name if local else folder, pictures, captions)
