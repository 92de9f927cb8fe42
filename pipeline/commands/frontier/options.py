"""What the verb `frontier` is asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import Parameter

from pipeline.commands.evaluation.options import EvaluateOptions

METHODS: dict[str, dict[str, Any]] = {
    "cfg": {},
    "interval": {"guidance_interval": "0.3,3"},
    "rescale": {"guidance_rescale": 0.7},
    "apg": {"guidance_method": "apg"},
    "cads": {"cads_scale": 0.2},
    "adapter": {"guidance_against": "base"},
    "perturbed": {"guidance_against": "perturbed"},
    "cfg_zero_star": {"guidance_method": "cfg_zero_star"},
}
NUM_CAPTIONS, NUM_IMAGES = 24, 4  # where neither is given
LEAST = 4  # captions
DIVERSITIES = ("within_caption", "vendi")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FrontierOptions(EvaluateOptions):
    """The options of `frontier`, beside the adapter."""

    limit: int | None = NUM_CAPTIONS
    """Captions at most, from 4 on, spread over all."""

    num_images: int = NUM_IMAGES
    """Pictures of each caption, from 2 on: diversity is how unlike they are."""

    method: list[str] | None = None
    """Ways of guidance, once for each: cfg, interval, rescale, apg, cads, adapter, perturbed, cfg_zero_star. Not given:
    cfg, interval, apg and adapter, where the model has a use for them."""

    guidance_scales: list[float] | None = None
    """Guidance scales, once for each. Not given: 1, and those around the run's."""

    scales: list[float] | None = None
    """Scales of the adapter, once for each. Not given: 1, and 0.7 with cfg."""

    steps: list[int] | None = None
    """Numbers of sampling steps, once for each. Not given: the run's."""

    checkpoints: bool = False
    """Every checkpoint of the run too."""

    adherence: str | None = None
    """The metric that says how well pictures follow their captions: clip_margin, top1, rouge_l ... Not given: what
    the base's own reader reads, else clip_margin."""

    diversity: str = "within_caption"
    """How unlike pictures of one caption are: within_caption (1 - cosine) or vendi."""

    all_pictures: bool = False
    """Draw all captions in every way, also in those that others have beaten."""

    against: Path | None = None
    """The output folder of another run with a frontier of the same captions, to be compared with at equal diversity."""

    def more_problems(self) -> list[str]:
        """What is wrong with the options of this verb."""
        problems = super().more_problems()
        idle = {"anyway": self.anyway, "aesthetic_model": self.aesthetic_model is not None}
        problems += [f"--{name} has no effect here; `evaluate` has it." for name, given in idle.items() if given]
        if self.scale != 1 and self.scales is not None:
            problems.append("--scale and --scales say the same; give --scales alone.")
        for one, several in (("guidance_scale", self.guidance_scales), ("num_inference_steps", self.steps)):
            if getattr(self, one) is not None and several is not None:
                name = "guidance_scales" if one == "guidance_scale" else "steps"
                problems.append(f"--{one} and --{name} say the same; give --{name} alone.")
        if unknown := [name for name in self.method or () if name not in METHODS]:
            problems.append(f"--method {', '.join(unknown)} is unknown; there are {', '.join(METHODS)}.")
        for flag, values, low, high in (
            ("guidance_scales", self.guidance_scales, 0.0, 100.0),
            ("scales", self.scales, -100.0, 100.0),
            ("steps", self.steps, 1, 1000),
        ):
            if outside := [value for value in values or () if not low <= value <= high]:
                problems.append(
                    f"--{flag} {', '.join(f'{v:g}' for v in outside)} must be between {low:g} and {high:g}."
                )
        if self.diversity not in DIVERSITIES:
            problems.append(f"--diversity {self.diversity} is neither {' nor '.join(DIVERSITIES)}.")
        return problems
