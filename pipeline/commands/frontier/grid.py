"""The ways of drawing that are tried: methods of guidance, its scales, those of the adapter, checkpoints and steps."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.commands.frontier.options import METHODS
from pipeline.evaluation.frontier.found import Setting
from pipeline.evaluation.sample import SampleSettings
from pipeline.hashing import digest, digest_of_file
from pipeline.sampling.options import SCALES, GuidanceOptions

USUAL = ("cfg", "interval", "apg", "adapter")
FACTORS = (0.75, 1.0, 1.5, 2.5)  # of the run's guidance
ADAPTER_SCALES = (1.25, 1.5, 2.0)  # of guidance away from the base, where 1 is the adapter as it was trained
WEAKER = 0.7  # scale of the adapter, tried with plain guidance


@dataclass(frozen=True)
class Axes:
    """What is asked for; None is as usual."""

    methods: Sequence[str]
    guidance_scales: Sequence[float] | None
    scales: Sequence[float] | None
    steps: Sequence[int]
    files: Mapping[int | None, Path]  # the adapter of each checkpoint's step; None: what the run published
    usual: float  # guidance scale away from the unconditional prediction


@dataclass(frozen=True)
class Way:
    """A setting, and what draws so."""

    setting: Setting
    file: Path
    settings: SampleSettings

    @property
    def folder(self) -> str:
        """Of its pictures: what decides them, in a name."""
        facts = repr(sorted(dataclasses.asdict(self.setting).items()))
        return f"{self.setting.method}-{self.setting.guidance_scale:g}-{digest(facts.encode())[:8]}"


def ways(axes: Axes, settings: SampleSettings) -> list[Way]:
    """Every combination once; at guidance scale 1, where all methods are one, only plain guidance."""
    found = []
    for method, (step, file), num_steps in itertools.product(axes.methods, axes.files.items(), axes.steps):
        guidance = GuidanceOptions(**METHODS[method])
        for guidance_scale, scale in _scales(method, axes):
            setting = Setting(
                method=method,
                guidance=METHODS[method],
                guidance_scale=guidance_scale,
                num_inference_steps=num_steps,
                scale=scale,
                adapter=digest_of_file(file),
                step=step,
            )
            drawn = dataclasses.replace(
                settings, guidance_scale=guidance_scale, num_inference_steps=num_steps, guidance=guidance
            )
            found.append(Way(setting, file, drawn))
    return found


def _scales(method: str, axes: Axes) -> Iterator[tuple[float, float]]:
    """Scales of guidance and of the adapter for one method, around what is usual for it."""
    usual = SCALES["perturbed"] if method == "perturbed" else axes.usual
    around = [1.0, *(round(factor * usual, 3) for factor in FACTORS if factor * usual > 1)]
    wanted = axes.guidance_scales
    if wanted is None:
        wanted = ADAPTER_SCALES if method == "adapter" else around
    plain = "cfg" if "cfg" in axes.methods else axes.methods[0]
    usual_scales = (1.0, WEAKER) if method == "cfg" else (1.0,)
    for guidance_scale, scale in itertools.product(wanted, axes.scales or usual_scales):
        if guidance_scale != 1 or method == plain:
            yield float(guidance_scale), float(scale)
