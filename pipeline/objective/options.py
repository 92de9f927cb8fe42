"""Options of the loss."""

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import out_of_bounds
from pipeline.objective.guided_options import GuidedOptions
from pipeline.objective.noise_options import NoiseOptions
from pipeline.objective.time_options import TimeOptions

MAX_GAMMA, MAX_POWER = 1e6, 100.0  # of a signal-to-noise ratio that is trained on, and of one for p2
SNRKind = Literal["min_snr", "soft_min_snr", "p2", "debiased"]
HuberSchedule = Literal["constant", "exponential", "snr"]


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """How far a prediction is from its target, and what each counts."""

    loss_weighting: SNRKind | None = None
    """What noise levels weigh, by their signal-to-noise ratio: min_snr (Hang et al. 2023), soft_min_snr (Crowson et al.
    2024), p2 (Choi et al. 2022) or debiased (Yu et al. 2023), as they weigh noise predictions, carried over to what the
    model predicts. Not given: every noise level weighs the same on its own target."""

    snr_gamma: float | None = None
    """Gamma of --loss_weighting; alone it means min_snr. Not given: 5, or 1 for p2."""

    normalize_weights: bool = False
    """Divide the weights of noise levels by their mean, so that another weighting is not another learning rate."""

    loss_type: Literal["l2", "huber"] = "l2"
    """Squares, or a pseudo-Huber loss (arXiv 2403.16728), which a few bad pictures move less."""

    huber_c: float = 0.1
    """Errors well below it count squared, those well above it linearly."""

    huber_schedule: HuberSchedule = "snr"
    """Where --huber_c holds: at every noise level (constant), or as what it falls to from 1 as noise grows (snr,
    exponential)."""

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
    def snr_weighting(self) -> SNRKind | None:
        """The weighting, whichever flag named it."""
        return "min_snr" if self.loss_weighting is None and self.snr_gamma is not None else self.loss_weighting

    @property
    def preserved(self) -> str:
        """What is kept, for the plan."""
        where = "without a prompt" if self.preservation_prompt is None else f"for {self.preservation_prompt!r}"
        cost = "each step computes two predictions more"
        return f"what the base predicts {where}, with weight {self.preservation_weight:g}; {cost}"

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        problems = out_of_bounds(
            self,
            huber_c=(1e-6, 1),
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
        else:
            problems += out_of_bounds(self, snr_gamma=(0, MAX_POWER if self.loss_weighting == "p2" else MAX_GAMMA))
        if self.loss_weighting == "debiased" and self.snr_gamma is not None:
            problems.append("--loss_weighting debiased has no gamma; leave --snr_gamma out.")
        if self.loss_type == "l2" and (self.huber_c, self.huber_schedule) != (0.1, "snr"):
            problems.append("--huber_c and --huber_schedule have an effect only with --loss_type huber.")
        return problems


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions(TimeOptions, NoiseOptions, GuidedOptions, LossOptions):
    """What is minimised."""

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        parts = (LossOptions, TimeOptions, NoiseOptions, GuidedOptions)
        problems = [problem for part in parts for problem in part.problems(self)]
        if self.weighting_scheme in ("cosmap", "sigma_sqrt") and self.snr_weighting is not None:
            given = "--snr_gamma" if self.loss_weighting is None else "--loss_weighting"
            both = f"--weighting_scheme {self.weighting_scheme} and {given}"
            problems.append(f"{both} are two weights of noise levels; give one of them.")
        is_weighed = self.snr_weighting is not None or self.weighting_scheme in ("cosmap", "sigma_sqrt")
        if self.normalize_weights and not is_weighed:
            problems.append("--normalize_weights has nothing to divide; give --loss_weighting, min_snr for example.")
        return problems

    def clashes(self, *, is_flow: bool) -> list[str]:
        """What has no meaning for the kind of model at hand, one sentence each."""
        found = TimeOptions.clashes(self, is_flow=is_flow) + NoiseOptions.clashes(self, is_flow=is_flow)
        if is_flow and self.snr_gamma is not None and self.loss_weighting is None:
            found.append(
                "--snr_gamma is usual for models that predict noise, and this is a flow model; leave it out, or give "
                "--loss_weighting min_snr too."
            )
        return found
