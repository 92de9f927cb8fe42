"""Bases that come as a folder in diffusers' layout."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from pipeline.errors import CheckpointError
from pipeline.families import autoencoder

if TYPE_CHECKING:
    import torch

    from pipeline.families.base import Family


def load(family: "Family", parts: Collection[str], dtype: "torch.dtype") -> Any:
    """The stock pipeline with the named parts. Raises CheckpointError for a folder that does not hold them."""
    import diffusers

    try:
        return getattr(diffusers, family.pipeline_class).from_pretrained(
            family.folder,
            dtype=dtype,
            variant=family.place.variant,
            local_files_only=True,
            **others(family, parts, dtype),
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{family.folder} cannot be loaded as {family.pipeline_class}: {error}") from error


def others(family: "Family", parts: Collection[str], dtype: "torch.dtype") -> dict[str, Any]:
    """The words that tell a pipeline what not to load: parts to do without, and an autoencoder to use instead."""
    words: dict[str, Any] = {
        name: None for name, value in family.index.items() if isinstance(value, list) and name not in parts
    }
    if "requires_safety_checker" in family.index:
        words["requires_safety_checker"] = False
    if "vae" in parts and family.place.vae is not None:
        words["vae"] = autoencoder.load(family, dtype)
    return words
