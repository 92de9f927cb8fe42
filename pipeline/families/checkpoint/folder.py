"""Bases in diffusers' layout: a folder with one sub-folder for each part."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from pipeline.errors import CheckpointError
from pipeline.families.checkpoint import autoencoder
from pipeline.families.checkpoint.source import ModelSource

if TYPE_CHECKING:
    import torch


def load(source: ModelSource, parts: Collection[str], dtype: "torch.dtype") -> Any:
    """The stock pipeline with the named parts. Raises CheckpointError for a folder that does not hold them."""
    import diffusers

    try:
        return getattr(diffusers, source.pipeline_class).from_pretrained(
            source.folder,
            dtype=dtype,
            variant=source.variant,
            local_files_only=True,
            **overrides(source, parts, dtype),
        )
    except (OSError, ValueError) as error:
        what = f"{source.folder} ({', '.join(parts)})"
        raise CheckpointError(f"{what} cannot be loaded as {source.pipeline_class}: {error}") from error


def overrides(source: ModelSource, parts: Collection[str], dtype: "torch.dtype") -> dict[str, Any]:
    """The keywords that keep a pipeline from loading other parts, and give it another autoencoder."""
    keywords: dict[str, Any] = {
        name: None for name, value in source.index.items() if isinstance(value, list) and name not in parts
    }
    if "requires_safety_checker" in source.index:
        keywords["requires_safety_checker"] = False
    if "vae" in parts and source.vae is not None:
        keywords["vae"] = autoencoder.load(source, dtype)
    return keywords
