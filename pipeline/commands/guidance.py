"""Guidance as verbs take it: what is not given is the run's."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cyclopts import Parameter

from pipeline.sampling.options import Against, GuidanceOptions, Method


@Parameter(name="*")  # each field is a flag of its own
@dataclass(frozen=True, kw_only=True)
class GuidanceFlags:
    """How pictures are guided; docs/flags.md says more of each."""

    guidance_method: Method | None = None
    """How the two predictions are put together: cfg, apg or cfg_zero_star. Not given: the run's, as the rest here."""

    guidance_against: Against | None = None
    """What guidance leads away from: unconditional, base (the adapter left out) or perturbed (no self-attention)."""

    guidance_interval: str | None = None
    """Guide only while LO < sigma <= HI, noise over signal, as in 0.28,5.42."""

    guidance_rescale: float | None = None
    """Share of a guided prediction that gets the deviation of the caption's own."""

    apg_eta: float | None = None
    """For apg: the share that stays of what is parallel to the picture."""

    apg_norm: float | None = None
    """For apg: the longest a step's difference may be."""

    apg_momentum: float | None = None
    """For apg: what of earlier steps' differences is added."""

    cads_scale: float | None = None
    """Noise added to the caption's embeddings while the picture is all noise."""

    def is_as(self, run: Mapping[str, Any]) -> bool:
        """Whether the run's pictures are led away from the same, so that its scale means the same."""
        return self.over(run).guidance_against == GuidanceOptions.of(run).guidance_against

    def over(self, run: Mapping[str, Any]) -> GuidanceOptions:
        """What is given, and the run's for the rest; another method leaves what belongs to the run's."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        kept = dict(run)
        if given.get("guidance_method", "apg") != "apg":
            kept = {name: value for name, value in run.items() if not name.startswith("apg_")}
        return GuidanceOptions.of({**kept, **given})
