"""An autoencoder to use instead of the model's own, such as one that does not overflow in half precision."""

import inspect
from typing import TYPE_CHECKING, Any

from pipeline.errors import CheckpointError, listed

if TYPE_CHECKING:
    import torch

    from pipeline.families.base import Family


def load(family: "Family", dtype: "torch.dtype") -> Any:
    """The autoencoder that is used instead of the model's own."""
    import diffusers

    _, class_name = family.index["vae"]
    try:
        return getattr(diffusers, class_name).from_pretrained(family.place.vae, dtype=dtype, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{family.place.vae} cannot be loaded as {class_name}: {error}") from error


def require_same_latents(family: "Family", own: "Family") -> None:
    """Raise CheckpointError if an autoencoder makes other latents than the model's `own`."""
    given, expected = _whole_config(family), _whole_config(own)
    differing = [
        f"{name} is {given.get(name)}, and {expected.get(name)} in {own.folder}"
        for name in ("_class_name", "latent_channels", "scaling_factor", "shift_factor")
        if given.get(name) != expected.get(name)
    ]
    if family.latent_shape(family.native_pixels) != own.latent_shape(own.native_pixels):
        differing.append("its latents have another size")
    if differing:
        raise CheckpointError(
            f"--pretrained_vae_model_name_or_path {family.place.vae} does not fit the model:\n{listed(differing)}"
        )


def _whole_config(family: "Family") -> dict[str, Any]:
    """What a configuration says, and what its class takes for what it leaves out, as older ones do."""
    import diffusers

    config = family.part_config("vae")
    known = inspect.signature(getattr(diffusers, config["_class_name"]).__init__).parameters.values()
    return {word.name: word.default for word in known if word.default is not word.empty} | config
