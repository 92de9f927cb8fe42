"""Options of the noise levels that are trained on."""

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import out_of_bounds

MAX_MODE_SCALE = 1.75  # 2 / (pi - 2): beyond, the density of times is no density
Scheme = Literal["none", "logit_normal", "mode", "beta", "cosmap", "sigma_sqrt"]
DENSITIES = ("none", "logit_normal", "mode", "beta")  # the other schemes are weights of the loss
MAX_SHIFT = 1000.0  # all but all noise
LAST = 1000  # thousandths of the way from data to noise


@dataclass(frozen=True, kw_only=True)
class TimeOptions:
    """How times are drawn: 0 is data, 1 is noise."""

    weighting_scheme: Scheme | None = None
    """How times are drawn (logit_normal, mode: Esser et al. 2024; beta), or what evenly drawn ones weigh (cosmap,
    sigma_sqrt: flow models only; none). Not given: logit_normal for flow models, none for others."""

    logit_mean: float = 0.0
    """Mean of logit_normal: above 0 towards noise, below 0 towards data."""

    logit_std: float = 1.0
    """Deviation of logit_normal."""

    mode_scale: float = 1.29
    """How much mode prefers middle times; below 0 the ends."""

    beta_a: float = 2.0
    """First number of beta: the larger, the more noise."""

    beta_b: float = 2.0
    """Second number of beta: the larger, the less noise."""

    timestep_shift: float | None = None
    """Moves drawn times towards noise, t to s t / (1 + (s - 1) t). Flow models only. Not given: as the model's own
    sampler does at this size."""

    min_timestep: int = 0
    """Least time that is trained on, in thousandths: what is drawn is squeezed between it and --max_timestep."""

    max_timestep: int = LAST
    """Largest time that is trained on, in thousandths."""

    stratified_timesteps: bool = False
    """Draw the times of an optimizer step from equal parts of the density, one from each, so that no step is all
    noise: its loss varies less from step to step."""

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest time."""
        return self.min_timestep / LAST, self.max_timestep / LAST

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        problems = out_of_bounds(
            self,
            logit_mean=(-20, 20),
            logit_std=(1e-3, 20),
            mode_scale=(-1, MAX_MODE_SCALE),
            beta_a=(0.5, 100),
            beta_b=(0.5, 100),
            timestep_shift=(1e-3, MAX_SHIFT),
            min_timestep=(0, LAST - 1),
            max_timestep=(1, LAST),
        )
        if not problems and self.min_timestep >= self.max_timestep:
            problems.append(f"--min_timestep {self.min_timestep} is not below --max_timestep {self.max_timestep}.")
        return problems

    def clashes(self, *, is_flow: bool) -> list[str]:
        """What has no meaning for the kind of model at hand, one sentence each."""
        scheme = self.weighting_scheme or ("logit_normal" if is_flow else "none")
        problems = []
        if not is_flow and scheme not in DENSITIES:
            problems.append(
                f"--weighting_scheme {scheme} weighs the loss of flow models, and this is none; "
                "--loss_weighting weighs that of others."
            )
        if not is_flow and self.timestep_shift is not None:
            problems.append("--timestep_shift has no meaning here, for this is no flow model; leave it out.")
        belongs = {
            "logit_mean": ("logit_normal", 0.0),
            "logit_std": ("logit_normal", 1.0),
            "mode_scale": ("mode", 1.29),
            "beta_a": ("beta", 2.0),
            "beta_b": ("beta", 2.0),
        }
        return problems + [
            f"--{name} has an effect only with --weighting_scheme {owner}; leave it out."
            for name, (owner, default) in belongs.items()
            if getattr(self, name) != default and scheme != owner
        ]
