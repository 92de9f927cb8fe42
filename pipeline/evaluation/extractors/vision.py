"""Vision models of transformers as extractors: CLIP and its like, which read captions too, DINOv2 and any others."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from pipeline.data.cache import batches
from pipeline.errors import CheckpointError, reason
from pipeline.evaluation.extractors.extractor import BATCH_PICTURES, Extractor, version_of

KIND, KIND_OF_TEXT = "vision", "clip"
POOLER = "pooler."  # what many files of classifiers lack
AESTHETIC = "aesthetic"  # the label of a classifier of what people find beautiful


def image_text(folder: str, cache_dir: str | None, flag: str = "--clip_model_name_or_path") -> Extractor:
    """A CLIP model in transformers' layout, from a folder or the Hub. Raises CheckpointError if it is none."""
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    local = Path(folder).is_dir()
    try:
        options = {"cache_dir": cache_dir, "local_files_only": local}
        model, told = CLIPModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        processor = CLIPImageProcessor.from_pretrained(folder, **options)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{flag} {folder} cannot be loaded as CLIP: {error}") from error
    _require_whole(told["missing_keys"], folder, flag)
    model.eval().to(_device())
    limit = model.config.text_config.max_position_embeddings

    def picture_rows(values: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        rows: Tensor = model.visual_projection(model.vision_model(values).pooler_output)
        return rows

    @torch.no_grad()
    def captions(texts: list[str]) -> Tensor:
        rows = []
        for some in batches(texts, BATCH_PICTURES):
            words = tokenizer(some, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
            rows.append(model.text_projection(model.text_model(**words.to(_device())).pooler_output).cpu())
        return torch.cat(rows)

    return Extractor(
        kind=KIND_OF_TEXT,
        name=Path(folder).name if local else folder,
        version=version_of(model, processor.to_dict()),
        features=_of_pictures(processor, picture_rows),
        captions=captions,
    )


def vision(folder: str, cache_dir: str | None, flag: str = "--extractor") -> Extractor:
    """Any vision model of transformers: what it pools, and where its file holds nothing that pools, its first token.

    A model of fields without either is averaged over its positions. Raises CheckpointError for what transformers cannot
    load as one.
    """
    from transformers import AutoModel

    model, processor, missing = _loaded(folder, AutoModel, cache_dir, flag)
    _require_whole([name for name in missing if not name.startswith(POOLER)], folder, flag)
    pools = not any(name.startswith(POOLER) for name in missing)  # else its pooler would be what chance made of it
    if hasattr(model, "vision_model"):  # of two towers, the one that looks
        model = model.vision_model

    return Extractor(
        kind=KIND,
        name=_name(folder),
        version=version_of(model, processor.to_dict(), pools),
        features=_of_pictures(processor, rows_of(model, pools=pools)),
        is_scaled=False,
    )


def rows_of(model: Any, *, pools: bool) -> Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b d"]]:
    """What a model says of each picture: pooled by itself, else its first token, or the mean of a field."""

    def rows(values: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        found = model(pixel_values=values)
        pooled: Tensor | None = getattr(found, "pooler_output", None) if pools else None
        if pooled is not None:
            return pooled.flatten(1)
        states: Tensor = found.last_hidden_state
        return states.mean((2, 3)) if states.ndim == 4 else states[:, 0]

    return rows


def aesthetic(folder: str, cache_dir: str | None) -> Extractor:
    """A model of transformers that scores pictures: its only output, or the probability of its label 'aesthetic'.

    Raises CheckpointError for what has neither.
    """
    from transformers import AutoModelForImageClassification

    flag = "--aesthetic_model"
    model, processor, missing = _loaded(folder, AutoModelForImageClassification, cache_dir, flag)
    _require_whole(missing, folder, flag)
    labels = [str(label).lower() for _, label in sorted(model.config.id2label.items())]
    if len(labels) != 1 and AESTHETIC not in labels:
        raise CheckpointError(f"{flag} {folder} has no single output and no label {AESTHETIC!r} ({', '.join(labels)}).")

    def scores(values: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1"]:
        logits: Tensor = model(pixel_values=values).logits
        return logits if len(labels) == 1 else logits.softmax(1)[:, [labels.index(AESTHETIC)]]

    return Extractor(
        kind=AESTHETIC,
        name=_name(folder),
        version=version_of(model, processor.to_dict()),
        features=_of_pictures(processor, scores),
        takes_distances=False,
    )


def _loaded(folder: str, kind: Any, cache_dir: str | None, flag: str) -> tuple[Any, Any, list[str]]:
    """Model, image processor and the weights that the file lacks, from safetensors alone; no code there is run."""
    from transformers import AutoImageProcessor

    local = Path(folder).is_dir()
    options = {"cache_dir": cache_dir, "local_files_only": local}
    try:
        processor = AutoImageProcessor.from_pretrained(folder, **options)
        more = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
        model, told = kind.from_pretrained(folder, **more, **options)
    except Exception as error:  # transformers and the Hub client raise many kinds; each means the same to the user
        raise CheckpointError(f"{flag} {folder} cannot be loaded as a vision model: {reason(error)}") from error
    return model.eval().to(_device()), processor, sorted(told["missing_keys"])


def _require_whole(missing: Iterable[str], folder: str, flag: str) -> None:
    """Raise CheckpointError for a file that lacks weights: transformers would fill them in by chance."""
    if names := sorted(missing):
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise CheckpointError(f"{flag} {folder} lacks {', '.join(names[:3])}{more}; it is a model of another kind.")


def _name(folder: str) -> str:
    return Path(folder).resolve().name if Path(folder).is_dir() else folder


def _of_pictures(processor: Any, rows: Callable[[Tensor], Tensor]) -> Callable[[list[Image.Image]], Tensor]:
    """A function of pixels as one of pictures, batch by batch."""

    @torch.no_grad()
    def features(images: list[Image.Image]) -> Tensor:
        found = []
        for some in batches(images, BATCH_PICTURES):
            given = processor([image.convert("RGB") for image in some], return_tensors="pt").pixel_values
            found.append(rows(given.to(_device())).float().cpu())
        return torch.cat(found)

    return features


def _device() -> torch.device:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")
