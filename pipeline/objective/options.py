"""Options of the loss."""

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import out_of_bounds

MAX_MODE_SCALE = 1.75  # 2 / (pi - 2): beyond, the density of times is no density
Scheme = Literal["none", "logit_normal", "mode", "cosmap", "sigma_sqrt"]


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """What is minimised."""

    snr_gamma: float | None = None
    """Min-SNR weighting (Hang et al. 2023), 5.0 in the paper; not for flow models. Not given: every noise level weighs
    the same."""

    noise_offset: float = 0.0
    """Scale of a constant added to the noise of each channel; 0.02 to 0.1 helps very dark or bright data. Not for
    flow models."""

    weighting_scheme: Scheme | None = None
    """Of flow models (Esser et al. 2024): how times are drawn (logit_normal, mode), or what evenly drawn ones weigh
    (cosmap, sigma_sqrt, none). Not given: logit_normal."""

    logit_mean: float = 0.0
    """Mean of logit_normal: above 0 towards noise, below 0 towards data."""

    logit_std: float = 1.0
    """Deviation of logit_normal."""

    mode_scale: float = 1.29
    """How much mode prefers middle times; below 0 the ends."""

    timestep_shift: float | None = None
    """Moves drawn times towards noise, t to s t / (1 + (s - 1) t). Not given: as the model's own sampler does at this
    size."""

    prior_loss_weight: float = 1.0
    """With --with_prior_preservation: what the loss of a picture of the class counts beside one of the subject."""

    preservation_weight: float = 0.0
    """Weight of a second loss: the squared distance between what the model predicts with the adapter and without it,
    for --preservation_prompt. It keeps what the adapter is not about, and costs a step as much again."""

    preservation_prompt: str | None = None
    """The prompt for which the model shall stay what it was, as in 'a dog' where one dog is learnt. Not given: no
    prompt, as in guidance."""

    unmasked_weight: float = 0.0
    """With --masked_loss: what the loss counts where a mask is black; 1 is as much as where it is white."""

    unmasked_preservation: float = 0.0
    """With --masked_loss: weight of a second loss that keeps what the base predicts where a mask is black."""

    @property
    def preserved(self) -> str:
        """What is kept, for the plan."""
        where = "without a prompt" if self.preservation_prompt is None else f"for {self.preservation_prompt!r}"
        cost = "each step computes two predictions more"
        return f"what the base predicts {where}, with weight {self.preservation_weight:g}; {cost}"

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        infinity = float("inf")
        problems = out_of_bounds(
            self,
            noise_offset=(0, 1),
            logit_mean=(-20, 20),
            logit_std=(1e-3, 20),
            mode_scale=(-1, MAX_MODE_SCALE),
            timestep_shift=(1e-3, infinity),
            prior_loss_weight=(0, 1000),
            preservation_weight=(0, 1000),
            unmasked_weight=(0, 1),
            unmasked_preservation=(0, 1000),
        )
        if self.preservation_prompt is not None and not self.preservation_prompt.strip():
            problems.append("--preservation_prompt is empty; leave it out for no prompt.")
        elif self.preservation_prompt is not None and not self.preservation_weight:
            problems.append("--preservation_prompt has an effect only with --preservation_weight, 1 for example.")
        if self.snr_gamma is not None and self.snr_gamma <= 0:
            problems.append(
                f"--snr_gamma is {self.snr_gamma:g}, which would weigh every loss 0; use 5, or leave it out."
            )
        return problems

    def clashes(self, *, is_flow: bool) -> list[str]:
        """What has no meaning for the kind of model at hand, one sentence each."""
        of_flow = {
            "weighting_scheme": self.weighting_scheme is not None,
            "timestep_shift": self.timestep_shift is not None,
            "logit_mean": self.logit_mean != 0.0,
            "logit_std": self.logit_std != 1.0,
            "mode_scale": self.mode_scale != 1.29,
        }
        of_discrete = {"snr_gamma": self.snr_gamma is not None, "noise_offset": self.noise_offset != 0.0}
        given, kind = (of_discrete, "a flow model") if is_flow else (of_flow, "no flow model")
        return [f"--{name} has no meaning here, for this is {kind}; leave it out." for name, on in given.items() if on]
