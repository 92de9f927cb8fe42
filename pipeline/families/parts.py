"""What several families share, as functions: layers' names, the schedule, and what is refused."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.families import schedules
from pipeline.families.base import Family
from pipeline.families.targets import TargetModules
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import RectifiedFlow, VariancePreserving, index_of
from pipeline.objective.timesteps import ConstantShift, DynamicShift, Shift, build_density

UNET = TargetModules(
    {
        "attention": ("to_q", "to_k", "to_v", "to_out.0"),
        "mlp": ("ff.net.0.proj", "ff.net.2"),
        "condition_only": ("attn2.to_k", "attn2.to_v"),
    }
)

# The place that the authors of perturbed-attention guidance chose.
MIDDLE_SELF_ATTENTION = r"mid_block\.attentions\.\d+\.transformer_blocks\.\d+\.attn1"


def discrete_path(family: Family, options: ObjectiveOptions) -> VariancePreserving:
    """The variance-preserving path of a UNet checkpoint's own scheduler.

    Raises CheckpointError for other predictions, and for a UNet that takes more than latents or was distilled.
    """
    require_plain(family, family.part_config("unet")["in_channels"])
    require_undistilled(family)
    config = family.part_config("scheduler")
    prediction = config.get("prediction_type", "epsilon")
    if schedules.is_flow(config):
        raise CheckpointError(
            f"The scheduler of {family.source.folder} is one of flows ({config.get('_class_name')}), and a UNet of "
            "this family is trained to predict noise, v or the data. One that was retrained as a flow is not "
            "supported; for any other, put the scheduler of its base model in place."
        )
    if prediction not in ("epsilon", "v_prediction", "sample"):
        raise CheckpointError(
            f"{family.source.folder} predicts {prediction!r}; epsilon, v_prediction and sample can be trained."
        )
    density = build_density(options, usual="none")
    return VariancePreserving(_signal_shares(family, config), prediction, density, options.limits)


def _signal_shares(family: Family, config: dict[str, Any]) -> Float[Tensor, " n"]:
    """The share of signal in the variance at each step, as diffusers makes it. Raises CheckpointError for nonsense."""
    import diffusers

    count = config.get("num_train_timesteps", 1000)
    try:
        scheduler = diffusers.DDPMScheduler.from_config(config)
    except (ValueError, TypeError, IndexError, RuntimeError, NotImplementedError) as error:
        raise CheckpointError(f"The scheduler of {family.source.folder} cannot be made ({error}).") from error
    betas = scheduler.betas
    if count < 1 or len(betas) != count or bool(((betas < 0) | (betas > 1)).any()):
        raise CheckpointError(
            f"The scheduler_config.json of {family.source.folder} makes no noise schedule: for each of its "
            f"num_train_timesteps ({count}) it needs a beta between 0 and 1."
        )
    shares: Tensor = scheduler.alphas_cumprod
    return shares.clone()


def timestep(family: Family, t: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The index i of t = i / N on a discrete schedule, which the denoiser is called with."""
    return index_of(t, int(family.part_config("scheduler").get("num_train_timesteps", 1000)))


def flow_path(family: Family, options: ObjectiveOptions, in_channels: int) -> RectifiedFlow:
    """A rectified flow, its times drawn as the options say and shifted as the checkpoint's sampler shifts them.

    Raises CheckpointError for a scheduler that could be set to flow and is not, and for a transformer whose
    `in_channels` are more than latents.
    """
    require_plain(family, in_channels)
    require_flow(family)
    density = build_density(options, usual="logit_normal")
    shift = own_shift(family) if options.timestep_shift is None else ConstantShift(options.timestep_shift)
    return RectifiedFlow(density, shift, limits=options.limits)


def own_shift(family: Family) -> Shift:
    """The shift of the checkpoint's scheduler: fixed, or growing with the number of image tokens."""
    config = family.part_config("scheduler")
    if config.get("use_flow_sigmas", False):  # a solver of diffusion and flow alike, set to flow
        return ConstantShift(float(config.get("flow_shift", 1.0)))
    if not config.get("use_dynamic_shifting", False):
        return ConstantShift(float(config.get("shift", 1.0)))
    return DynamicShift(
        few=config.get("base_image_seq_len", 256),
        many=config.get("max_image_seq_len", 4096),
        low=config.get("base_shift", 0.5),
        high=config.get("max_shift", 1.15),
        is_exponential=config.get("time_shift_type", "exponential") == "exponential",
    )


def require_plain(family: Family, channels: int) -> None:
    """Raise CheckpointError if the denoiser takes more than latents: inpainting, editing, depth."""
    expected = int(family.part_config("vae")["latent_channels"])
    if channels != expected:
        raise CheckpointError(
            f"{family.source.folder} takes {channels} channels as input and its latents have {expected} (inpainting "
            "or editing?); give a plain text-to-image model."
        )


def require_flow(family: Family) -> None:
    """Raise CheckpointError for a scheduler of noise levels, or of both (DPM-Solver) that is not set to flow."""
    config = family.part_config("scheduler")
    if not schedules.is_flow(config):
        raise CheckpointError(
            f"The scheduler of {family.source.folder} ({config.get('_class_name')}) is not set to flow, which is what "
            "its model predicts."
        )


def require_undistilled(family: Family) -> None:
    """Raise CheckpointError for a UNet that is told its guidance: it was distilled to few steps."""
    if family.part_config("unet").get("time_cond_proj_dim") is not None:
        raise CheckpointError(
            f"{family.source.folder} was distilled to few steps (LCM); give the model it was made from."
        )
