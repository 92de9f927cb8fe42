"""What `fairness` is asked for."""

import collections
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cyclopts import Parameter

from pipeline.commands.evaluation.options import EvaluateOptions
from pipeline.errors import ConfigError
from pipeline.evaluation.fairness.template import slots_of


@Parameter(name="*")  # each field is a flag of its own
@dataclass(frozen=True, kw_only=True)
class FairnessOptions:
    """The options of `fairness`, beside the run."""

    column: str | None = None
    """A column of the metadata whose values are the groups."""

    template: str | None = None
    """A caption with slots, as in 'a {size} {thing}': every combination is drawn, so groups differ in nothing else."""

    values: list[str] | None = None
    """What a slot of --template may be, as in size=small,large; once for each slot."""

    by: str | None = None
    """The slot whose values are the groups, where --template has several."""

    reference: Path | None = None
    """With --column: a folder of true pictures with captions and that column, instead of the run's own."""

    limit: int | None = None
    """With --column: captions of each group at most, spread over all."""

    num_images: int = 1
    """Pictures of each caption."""

    neutral: Path | None = None
    """A text file with a prompt in each line that names no group: which groups are drawn then?"""

    neutral_prompt: list[str] | None = None
    """The same as a flag; may be given several times."""

    num_neutral: int = 32
    """Pictures of each neutral prompt."""

    target: Literal["uniform", "data"] = "uniform"
    """The shares that are wanted where no group is asked for: equal ones, or those of the training data."""

    captioner: str | None = None
    """An image-to-text model that says which group a picture shows. Not given: what the base's card names."""

    extractor: list[str] | None = None
    """What looks at the pictures, as in evaluate; may be given several times."""

    seed: int = 0
    """Added to all seeds."""

    guidance_scale: float | None = None
    """Classifier-free guidance. Not given: the run's."""

    num_inference_steps: int | None = None
    """Sampling steps. Not given: the run's."""

    cache_dir: str | None = None
    """Folder for what was seen in pictures once. Not given: the run's."""

    to: Path | None = None
    """Folder for pictures, numbers and page. Not given: OUTPUT_DIR/fairness."""

    @property
    def of_evaluation(self) -> EvaluateOptions:
        """What of them `evaluate` knows too."""
        return EvaluateOptions(
            reference=self.reference,
            num_images=self.num_images,
            captioner=self.captioner,
            extractor=self.extractor,
            seed=self.seed,
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.num_inference_steps,
            cache_dir=self.cache_dir,
            to=self.to,
        )

    @property
    def slots(self) -> dict[str, tuple[str, ...]]:
        """The values of each slot."""
        pairs = (text.partition("=") for text in self.values or [])
        return {name.strip(): _parts(values) for name, _, values in pairs}

    def require_sound(self) -> None:
        """Raise ConfigError for values that mean nothing, all of them at once."""
        problems = list[str]()
        if (self.column is None) == (self.template is None):
            problems.append("Name the groups by --column or by --template, one of the two.")
        problems += self._problems_of_template() if self.template is not None else self._problems_of_column()
        for flag, value in (("limit", self.limit), ("num_neutral", self.num_neutral)):
            if value is not None and value < 1:
                problems.append(f"--{flag} {value} must be at least 1.")
        try:
            self.of_evaluation.require_sound()
        except ConfigError as error:
            problems.append(str(error))
        if problems:
            raise ConfigError("\n".join(problems))

    def _problems_of_column(self) -> list[str]:
        given = (("values", self.values), ("by", self.by))
        return [f"--{flag} goes with --template only." for flag, value in given if value is not None]

    def _problems_of_template(self) -> list[str]:
        assert self.template is not None
        slots, given = slots_of(self.template), self.slots
        problems = [
            f"--{flag} goes with --column only."
            for flag, value in (("reference", self.reference), ("limit", self.limit))
            if value is not None
        ]
        problems += [f"--values {text}: write it as slot=one,other." for text in self.values or [] if "=" not in text]
        named = collections.Counter(text.partition("=")[0].strip() for text in self.values or [])
        problems += [f"--values {slot}=... is given {n} times; write all in one." for slot, n in named.items() if n > 1]
        if not slots:
            problems.append(f"--template {self.template!r} has no slot; write one as in 'a {{size}} fox'.")
        for slot in slots:
            if not given.get(slot):
                problems.append(f"--template has the slot {slot!r}; say what it may be with --values {slot}=one,other.")
        for slot, values in given.items():
            if slot not in slots and slots:
                problems.append(f"--values {slot}=...: --template has no such slot, but {', '.join(slots)}.")
            if doubles := sorted({value for value in values if values.count(value) > 1}):
                problems.append(f"--values {slot} has {', '.join(doubles)} twice.")
        if self.by is not None and self.by not in slots:
            problems.append(f"--by {self.by} is no slot of --template ({', '.join(slots)}).")
        if self.by is None and len(slots) > 1:
            problems.append(
                f"--template has several slots; name the one that the groups are with --by {slots[0]}, say."
            )
        return problems


def _parts(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split(",") if part.strip())
