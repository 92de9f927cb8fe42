"""Vision models of transformers as extractors: CLIP and its like, which read captions too, DINOv2 and any others."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.evaluation.extractors.extractor import BATCH_PICTURES, Extractor, version_of

KIND, KIND_OF_TEXT = "vision", "clip"
AESTHETIC = "aesthetic"  # the label of a classifier of what people find beautiful


def image_text(folder: str, cache_dir: str | None, flag: str = "--clip_model_name_or_path") -> Extractor:
    """A CLIP model in transformers' layout, from a folder or the Hub. Raises CheckpointError if it is none."""
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    local = Path(folder).is_dir()
    try:
        options = {"cache_dir": cache_dir, "local_files_only": local}
        model = CLIPModel.from_pretrained(folder, dtype=torch.float32, **options).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        processor = CLIPImageProcessor.from_pretrained(folder, **options)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{flag} {folder} cannot be loaded as CLIP: {error}") from error
    model.to(_device())
    limit = model.config.text_config.max_position_embeddings

    @torch.no_grad()
    def pictures(images: list[Image.Image]) -> Tensor:
        rows = []
        for batch in _batches(images):
            values = processor(batch, return_tensors="pt").pixel_values.to(_device())
            rows.append(model.visual_projection(model.vision_model(values).pooler_output).cpu())
        return torch.cat(rows)

    @torch.no_grad()
    def captions(texts: list[str]) -> Tensor:
        words = tokenizer(texts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        read: Tensor = model.text_projection(model.text_model(**words.to(_device())).pooler_output)
        return read.cpu()

    return Extractor(
        kind=KIND_OF_TEXT,
        name=Path(folder).name if local else folder,
        version=version_of(model, processor.to_dict()),
        features=pictures,
        captions=captions,
    )


def vision(folder: str, cache_dir: str | None, flag: str = "--extractor") -> Extractor:
    """Any vision model of transformers: its pooled output, else the mean over positions (DINOv2: the first token's).

    Raises CheckpointError for what transformers cannot load as one.
    """
    from transformers import AutoModel

    model, processor = _loaded(folder, AutoModel, cache_dir, flag)
    if hasattr(model, "vision_model"):  # of two towers, the one that looks
        model = model.vision_model

    @torch.no_grad()
    def features(images: list[Image.Image]) -> Tensor:
        rows = []
        for batch in _batches(images):
            values = processor(batch, return_tensors="pt").pixel_values.to(_device())
            found = model(pixel_values=values)
            pooled = getattr(found, "pooler_output", None)
            row = found.last_hidden_state.flatten(2).mean(2) if pooled is None else pooled
            rows.append(row.flatten(1).float().cpu())
        return torch.cat(rows)

    return Extractor(
        kind=KIND,
        name=_name(folder),
        version=version_of(model, processor.to_dict()),
        features=features,
        is_scaled=False,
    )


def aesthetic(folder: str, cache_dir: str | None) -> Extractor:
    """A model of transformers that scores pictures: its only output, or the probability of its label 'aesthetic'.

    Raises CheckpointError for what has neither.
    """
    from transformers import AutoModelForImageClassification

    flag = "--aesthetic_model"
    model, processor = _loaded(folder, AutoModelForImageClassification, cache_dir, flag)
    labels = [str(label).lower() for _, label in sorted(model.config.id2label.items())]
    if len(labels) != 1 and AESTHETIC not in labels:
        raise CheckpointError(f"{flag} {folder} has no single output and no label {AESTHETIC!r} ({', '.join(labels)}).")

    @torch.no_grad()
    def score(images: list[Image.Image]) -> Float[Tensor, "n 1"]:
        rows = []
        for batch in _batches(images):
            logits = model(pixel_values=processor(batch, return_tensors="pt").pixel_values.to(_device())).logits
            place = 0 if len(labels) == 1 else labels.index(AESTHETIC)
            rows.append((logits if len(labels) == 1 else logits.softmax(1))[:, place].float().cpu())
        return torch.cat(rows)[:, None]

    return Extractor(
        kind=AESTHETIC,
        name=_name(folder),
        version=version_of(model, processor.to_dict()),
        features=score,
        takes_distances=False,
    )


def _loaded(folder: str, kind: Any, cache_dir: str | None, flag: str) -> tuple[Any, Any]:
    """Model and image processor. Weights are read from safetensors alone, and no code of the repository is run."""
    from transformers import AutoImageProcessor

    local = Path(folder).is_dir()
    options = {"cache_dir": cache_dir, "local_files_only": local}
    try:
        processor = AutoImageProcessor.from_pretrained(folder, **options)
        model = kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **options).eval()
    except Exception as error:  # transformers and the Hub client raise many kinds; each means the same to the user
        said = str(error).strip().splitlines()
        reason = said[0] if said else type(error).__name__
        raise CheckpointError(f"{flag} {folder} cannot be loaded as a vision model: {reason}") from error
    return model.to(_device()), processor


def _name(folder: str) -> str:
    return Path(folder).resolve().name if Path(folder).is_dir() else folder


def _batches(images: list[Image.Image]) -> list[list[Image.Image]]:
    firsts = range(0, len(images), BATCH_PICTURES)
    return [[image.convert("RGB") for image in images[first : first + BATCH_PICTURES]] for first in firsts]


def _device() -> torch.device:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")
