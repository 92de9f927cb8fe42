"""An autoencoder to use instead of the model's own, such as one that does not overflow in half precision."""

import inspect
from typing import TYPE_CHECKING, Any

from pipeline.errors import CheckpointError, listed
from pipeline.families.checkpoint.source import ModelSource

if TYPE_CHECKING:
    import torch


def load(source: ModelSource, dtype: "torch.dtype") -> Any:
    """The autoencoder that is used instead of the model's own; CheckpointError if it cannot be loaded."""
    import diffusers

    _, class_name = source.index["vae"]
    try:
        return getattr(diffusers, class_name).from_pretrained(source.vae, dtype=dtype, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source.vae} cannot be loaded as {class_name}: {error}") from error


def require_same_latents(source: ModelSource, own: ModelSource) -> None:
    """Raise CheckpointError if an autoencoder makes other latents than the model's `own`."""
    given, expected = _whole_config(source), _whole_config(own)
    differing = [
        f"{name} is {given.get(name)}, and {expected.get(name)} in {own.folder}"
        for name in ("_class_name", "latent_channels", "scaling_factor", "shift_factor")
        if given.get(name) != expected.get(name)
    ]
    if pixels_per_latent(given) != pixels_per_latent(expected):
        differing.append("its latents have another size")
    if differing:
        raise CheckpointError(
            f"--pretrained_vae_model_name_or_path {source.vae} does not fit the model:\n{listed(differing)}"
        )


def pixels_per_latent(config: dict[str, Any]) -> int:
    """The side in pixels of one latent, from an autoencoder's configuration: it halves between two of its blocks."""
    return 1 << (len(config.get("block_out_channels") or config["encoder_block_out_channels"]) - 1)


def _whole_config(source: ModelSource) -> dict[str, Any]:
    """What a configuration says, and what its class takes for what it leaves out, as older ones do."""
    import diffusers

    config = source.part_config("vae")
    known = inspect.signature(getattr(diffusers, config["_class_name"]).__init__).parameters.values()
    return {word.name: word.default for word in known if word.default is not word.empty} | config
