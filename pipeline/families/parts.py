"""What several families are made of, as functions: reading the autoencoder, the schedule and the layers' names."""

import math
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.families.base import Family
from pipeline.families.targets import Targets
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import RectifiedFlow, VariancePreserving
from pipeline.objective.timesteps import density_for

UNET = Targets(
    {
        "attention": ("to_q", "to_k", "to_v", "to_out.0"),
        "mlp": ("ff.net.0.proj", "ff.net.2"),
        "condition_only": ("attn2.to_k", "attn2.to_v"),
    }
)


def pixels_per_latent(family: Family) -> int:
    """The autoencoder halves between two of its blocks."""
    return 1 << (len(family.part_config("vae")["block_out_channels"]) - 1)


def native_side(family: Family) -> int:
    """The side in pixels that the denoiser was trained at: its latents times the autoencoder's factor."""
    return int(family.part_config(family.denoiser)["sample_size"]) * pixels_per_latent(family)


def square_latents(family: Family, pixels: int) -> tuple[int, int, int]:
    """Channels, height and width of the latents of a square picture."""
    side = pixels // pixels_per_latent(family)
    return int(family.part_config("vae")["latent_channels"]), side, side


def encode_kl(vae: Any, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the autoencoder's posterior, shifted and scaled to the denoiser's units."""
    posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
    shift, scale = vae.config.shift_factor or 0.0, vae.config.scaling_factor
    return (posterior.mean - shift) * scale, posterior.std * scale


def discrete_path(family: Family) -> VariancePreserving:
    """The variance-preserving path of the checkpoint's own scheduler. Raises CheckpointError for other predictions."""
    import diffusers

    config = family.part_config("scheduler")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise CheckpointError(f"{family.folder} predicts {prediction!r}; epsilon and v_prediction can be trained.")
    scheduler = diffusers.DDPMScheduler.from_config(config)
    return VariancePreserving(scheduler.alphas_cumprod.clone(), prediction)


def num_times(family: Family) -> int:
    """Length N of a discrete schedule; the denoiser is called with an index below it."""
    return int(family.part_config("scheduler").get("num_train_timesteps", 1000))


def index_of(family: Family, t: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The index i of t = i / N on a discrete schedule."""
    return (t * num_times(family)).round().long()


def flow_path(family: Family, options: ObjectiveOptions, num_tokens: int) -> RectifiedFlow:
    """A rectified flow, its times drawn as the options say and shifted as the checkpoint's sampler shifts them.

    Raises CheckpointError for a scheduler that could be set to flow and is not.
    """
    require_flow(family)
    shift = options.timestep_shift
    return RectifiedFlow(density_for(options), own_shift(family, num_tokens) if shift is None else shift)


def patched_flow_path(family: Family, options: ObjectiveOptions, pixels: int) -> RectifiedFlow:
    """The flow of a transformer that takes plain latents in patches. Raises CheckpointError for one that takes more."""
    config = family.part_config(family.denoiser)
    require_plain(family, config["in_channels"])
    return flow_path(family, options, (family.latent_shape(pixels)[1] // config["patch_size"]) ** 2)


def own_shift(family: Family, num_tokens: int) -> float:
    """The shift of the checkpoint's scheduler: fixed, or growing with the number of image tokens (FLUX's e^mu)."""
    config = family.part_config("scheduler")
    if config.get("use_flow_sigmas", False):  # a solver of diffusion and flow alike, set to flow
        return float(config.get("flow_shift", 1.0))
    if not config.get("use_dynamic_shifting", False):
        return float(config.get("shift", 1.0))
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = low + (high - low) * (num_tokens - few) / (many - few)
    return math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu


def require_plain(family: Family, channels: int) -> None:
    """Raise CheckpointError if the denoiser takes more than latents: inpainting, editing, depth."""
    expected = int(family.part_config("vae")["latent_channels"])
    if channels != expected:
        raise CheckpointError(
            f"{family.folder} takes {channels} channels as input and its latents have {expected} (inpainting or "
            "editing?); give a plain text-to-image model."
        )


def require_flow(family: Family) -> None:
    """Raise CheckpointError for a solver of diffusion and flow alike (DPM-Solver) that is not set to flow."""
    config = family.part_config("scheduler")
    is_flow = config.get("use_flow_sigmas") and config.get("prediction_type") == "flow_prediction"
    if "use_flow_sigmas" in config and not is_flow:
        raise CheckpointError(f"The scheduler of {family.folder} is not set to flow, which is what its model predicts.")


def require_undistilled(family: Family) -> None:
    """Raise CheckpointError for a UNet that is told its guidance: it was distilled to few steps."""
    if family.part_config("unet").get("time_cond_proj_dim") is not None:
        raise CheckpointError(f"{family.folder} was distilled to few steps (LCM); give the model it was made from.")


def rows_of(**states: Tensor) -> dict[str, Tensor]:
    """The states of one caption without the batch dimension that pipelines add."""
    return {name: value[0] for name, value in states.items()}
