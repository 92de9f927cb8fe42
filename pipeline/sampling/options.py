"""Options of guidance in sampling."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pipeline.errors import out_of_bounds

Method = Literal["cfg", "apg", "cfg_zero_star"]
Against = Literal["unconditional", "base", "perturbed"]
SCALES = {"base": 2.0, "perturbed": 4.0}  # where none is given: of Karras et al. 2024 and of Ahn et al. 2024, 1 + 3
WHAT = {"unconditional": "the unconditional prediction", "base": "the base's", "perturbed": "that without attention"}


@dataclass(frozen=True, kw_only=True)
class GuidanceOptions:
    """How a picture's prediction is led away from a weaker one; the scale says how far, and stands elsewhere."""

    guidance_method: Method = "cfg"
    """How previews are guided: cfg (Ho & Salimans 2022), apg (without what only raises contrast, Sadat et al. 2024) or
    cfg_zero_star (the unconditional prediction scaled to fit, nothing in the first step; flows, Fan et al. 2025)."""

    guidance_against: Against = "unconditional"
    """What guidance leads away from: unconditional, base (the caption's prediction by the denoiser without its adapter,
    which takes the adapter further; --guidance_scale 1 is as trained) or perturbed (without self-attention, Ahn et al.
    2024; UNets)."""

    guidance_interval: str | None = None
    """Guide only while LO < sigma <= HI, as in 0.28,5.42, and draw from the caption alone outside (Kynkaanniemi et al.
    2024): more diversity, fewer evaluations. Sigma is noise over signal, t / (1 - t) of a flow; HI may be inf."""

    guidance_rescale: float = 0.0
    """Share of a guided prediction that gets the deviation of the caption's own (Lin et al. 2023, eq. 15 and 16): 0.7
    for a model trained to zero signal."""

    apg_eta: float = 0.0
    """For --guidance_method apg: the share that stays of what is parallel to the picture; 1 keeps it all."""

    apg_norm: float | None = None
    """For --guidance_method apg: the longest a step's difference may be, in latents. Not given: any length."""

    apg_momentum: float = -0.5
    """For --guidance_method apg: what of earlier steps' differences is added; below 0 it is what is new that counts."""

    cads_scale: float = 0.0
    """Noise added to the caption's embeddings while the picture is all noise, less and less from t = 0.9 to 0.6 (Sadat
    et al. 2023): more diverse pictures of one caption. 0.1 to 0.25 are usual."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "GuidanceOptions":
        """The options among others by their flags' names; the rest is as usual."""
        names = [field.name for field in dataclasses.fields(GuidanceOptions)]
        return GuidanceOptions(**{name: values[name] for name in names if values.get(name) is not None})

    @property
    def is_usual(self) -> bool:
        """Whether a stock pipeline's own guidance is all that is asked for."""
        return not self.given

    @property
    def given(self) -> dict[str, Any]:
        """The options that are not as usual."""
        usual = GuidanceOptions()
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(GuidanceOptions)}
        return {name: value for name, value in values.items() if value != getattr(usual, name)}

    @property
    def facts(self) -> dict[str, Any]:
        """All of it that decides a picture, by the flags' names; nothing where guidance is as usual."""
        if self.is_usual:
            return {}
        names = {"guidance_method", "guidance_against", *self.given}
        names |= {"apg_eta", "apg_norm", "apg_momentum"} if self.guidance_method == "apg" else set()
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(GuidanceOptions)}
        return {name: value for name, value in found.items() if name in names and value is not None}

    @property
    def is_sound(self) -> bool:
        """Whether every value is of its kind and means something: what is read from a file need not be."""
        names = (self.guidance_method in get_args(Method)) and (self.guidance_against in get_args(Against))
        numbers = (self.guidance_rescale, self.apg_eta, self.apg_norm, self.apg_momentum, self.cads_scale)
        are_numbers = all(isinstance(value, float | int | None) for value in numbers)
        is_text = isinstance(self.guidance_interval, str | None)
        return names and are_numbers and is_text and not self.problems()

    @property
    def interval(self) -> tuple[float, float] | None:
        """The noise levels that are guided, above the first and up to the second; None for all."""
        return None if self.guidance_interval is None else _interval(self.guidance_interval)

    def stock_scale(self, scale: float) -> float:
        """What a stock pipeline is told: 1, at which it compares with nothing, where that is done for it."""
        return scale if self.guidance_against == "unconditional" else 1.0

    @property
    def text(self) -> str:
        """What is done, for the plan."""
        details = f" (eta {self.apg_eta:g}, momentum {self.apg_momentum:g})" if self.guidance_method == "apg" else ""
        parts = [f"{self.guidance_method}{details} away from {WHAT[self.guidance_against]}"]
        parts += [f"differences at most {self.apg_norm:g} long"] if self.apg_norm is not None else []
        if self.interval is not None:
            parts.append(f"while {self.interval[0]:g} < sigma <= {self.interval[1]:g}")
        parts += [f"rescaled by {self.guidance_rescale:g}"] if self.guidance_rescale else []
        parts += [f"captions with noise of {self.cads_scale:g}"] if self.cads_scale else []
        return ", ".join(parts)

    def clashes(
        self, family: str, *, has_null: bool, is_flow: bool, can_perturb: bool, renormalises: bool
    ) -> list[str]:
        """What a model has no use for, one sentence each."""
        if not has_null:
            return [
                f"--{name}: {family} was distilled to answer as if guided, and told its scale, so nothing is "
                "compared; leave it out."
                for name in self.given
            ]
        found = []
        if self.guidance_method == "cfg_zero_star" and not is_flow:
            found.append(f"--guidance_method cfg_zero_star is for flows, and {family} is none; give apg.")
        if self.guidance_method == "cfg_zero_star" and renormalises:
            found.append(
                f"--guidance_method cfg_zero_star answers nothing in the first step, and the pipeline of {family} "
                "gives what is guided the caption's norms; give apg."
            )
        if self.guidance_rescale and renormalises and self.guidance_against == "unconditional":
            found.append(
                f"--guidance_rescale: the pipeline of {family} gives what is guided the caption's norms anyway, which "
                "undoes it; leave it out."
            )
        if self.guidance_against == "perturbed" and not can_perturb:
            found.append(
                f"--guidance_against perturbed: {family} has no plain self-attention in its middle as UNets have; "
                "give base or unconditional."
            )
        return found

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        problems = out_of_bounds(
            self,
            guidance_rescale=(0, 1),
            apg_eta=(0, 1),
            apg_momentum=(-0.99, 0.99),
            cads_scale=(0, 10),
        )
        if self.guidance_interval is not None and self.interval is None:
            problems.append(
                f"--guidance_interval {self.guidance_interval} holds no two noise levels, the lower first, as in "
                "0.28,5.42."
            )
        if self.apg_norm is not None and not 0 < self.apg_norm < math.inf:
            problems.append(f"--apg_norm is {self.apg_norm:g}, but must be a finite number above 0.")
        if self.guidance_method != "apg":
            idle = [name for name in self.given if name.startswith("apg_")]
            problems += [f"--{name} has an effect only with --guidance_method apg." for name in idle]
        if self.guidance_method == "cfg_zero_star" and self.guidance_against != "unconditional":
            problems.append(
                "--guidance_method cfg_zero_star scales the unconditional prediction, and --guidance_against "
                f"{self.guidance_against} compares with another; leave one of them out."
            )
        return problems


def _interval(text: str) -> tuple[float, float] | None:
    """Two noise levels with a comma between them; None for what is none."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        return None
    return (low, high) if 0 <= low < high and not math.isnan(high) else None
