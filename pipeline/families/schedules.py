"""What a scheduler's configuration says of its noise levels, and those levels rescaled to end in pure noise."""

import inspect
from collections.abc import Mapping
from typing import Any

from pipeline.families.checkpoint.source import ModelSource

FLAG = "rescale_betas_zero_snr"  # its name in diffusers' schedulers too
RESCALED = {FLAG: True, "timestep_spacing": "trailing"}  # trailing: sampling starts at the last time
FOR_PICTURES = (  # schedulers that know the option, beside variants of these and those of video and few steps
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "UniPCMultistepScheduler",
)


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler goes straight from noise to data."""
    if "use_flow_sigmas" in config or config.get("prediction_type") == "flow_prediction":
        return bool(config.get("use_flow_sigmas")) and config.get("prediction_type") == "flow_prediction"
    return "FlowMatch" in str(config.get("_class_name"))


def rescale(pipe: Any) -> None:
    """Give a pipeline its own scheduler rescaled to end in pure noise (Lin et al. 2023, algorithm 1)."""
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **RESCALED)
    pipe.register_modules(scheduler=scheduler)


def as_code(run: Mapping[str, Any]) -> list[str]:
    """The same as lines of plain diffusers, for a run with the option; none for one without."""
    if run.get(FLAG) is not True:
        return []
    told = ", ".join(f"{name}={value!r}" for name, value in RESCALED.items())
    return [f"pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, {told})"]


def clashes(source: ModelSource) -> list[str]:
    """Why a model's schedule cannot be rescaled to end in pure noise, or need not be, one sentence each."""
    config = source.part_config("scheduler")
    kind, prediction = str(config.get("_class_name")), config.get("prediction_type", "epsilon")
    if is_flow(config):
        return [f"--{FLAG}: {source.folder} is a flow model, and its path ends in pure noise anyway; leave it out."]
    found = []
    if prediction == "epsilon":
        found.append(
            f"--{FLAG}: {source.folder} predicts the noise, which is all that its input would be at the last time, so "
            "nothing of a picture could be learnt or drawn there; it is for models that predict v or the data."
        )
    if not _knows(kind):
        found.append(
            f"--{FLAG}: the scheduler of {source.folder} is a {kind}, which has no such option; put the "
            f"scheduler_config.json of one that has it in place: {', '.join(FOR_PICTURES)}."
        )
    elif config.get(FLAG):
        found.append(f"--{FLAG}: the scheduler of {source.folder} says so already; leave it out.")
    return found


def _knows(kind: str) -> bool:
    """Whether diffusers has a scheduler of this name with the option."""
    import diffusers

    found = getattr(diffusers, kind, None)
    return found is not None and FLAG in inspect.signature(found.__init__).parameters
