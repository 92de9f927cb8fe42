"""Options of guidance in the target."""

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import out_of_bounds

Kind = Literal["model_guidance", "cfg", "contrastive"]
Against = Literal["base", "live"]
MAX_SCALE = 5.0  # of model guidance w = 0.8: beyond, the target is mostly the prediction itself
MAX_PRODUCT = 12.0  # of a trained scale and one of sampling: beyond, pictures burn


@dataclass(frozen=True, kw_only=True)
class GuidedOptions:
    """How strongly the condition weighs in what is learnt."""

    guided_target: Kind | None = None
    """Learn what guidance would make of the prediction, so that sampling needs none, or less: model_guidance (Tang et
    al. 2025), cfg (the data, pushed away from the unconditional prediction, the more the noisier) or contrastive (away
    from a wrong caption's, Stoica et al. 2025). A step computes one prediction more. Not given: the data alone."""

    guided_target_scale: float = 2.0
    """The guidance scale that is learnt: sampling at 1 then looks like sampling at this one. A w of model guidance or
    a lambda of the contrastive loss is the scale 1 / (1 - w)."""

    guided_target_against: Against = "live"
    """Whose prediction it is pushed away from: that of the model as it learns, or the base's, which stands still and
    does not know the new look."""

    @property
    def leads_from_unconditional(self) -> bool:
        """Whether the target is pushed away from the prediction without a caption."""
        return self.guided_target in ("model_guidance", "cfg")

    @property
    def reads_wrong_captions(self) -> bool:
        """Whether an example is shown with the caption of another one too."""
        return self.guided_target == "contrastive"

    @property
    def learns_its_own_unconditional(self) -> bool:
        """Whether that prediction is the learning model's, so has to be trained; a wrong caption's always is."""
        return self.leads_from_unconditional and self.guided_target_against == "live"

    @property
    def guided_text(self) -> str:
        """What is learnt, for the plan."""
        what = "a wrong caption's" if self.reads_wrong_captions else "the unconditional"
        whose = "of the base" if self.guided_target_against == "base" else "of the model as it learns"
        learnt = f"guidance at scale {self.guided_target_scale:g} ({self.guided_target})"
        return f"{learnt}, away from {what} prediction {whose}; each step computes one prediction more"

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        problems = out_of_bounds(self, guided_target_scale=(1, MAX_SCALE))
        if self.guided_target is not None and self.guided_target_scale == 1:
            problems.append("--guided_target_scale 1 is what the data say by themselves; leave --guided_target out.")
        if self.guided_target is None:
            idle = {"guided_target_scale": 2.0, "guided_target_against": "live"}
            problems += [
                f"--{name} has an effect only with --guided_target."
                for name, default in idle.items()
                if getattr(self, name) != default
            ]
        return problems
