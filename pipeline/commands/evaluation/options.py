"""What the verbs that measure pictures are asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cyclopts import Parameter

from pipeline.errors import ConfigError

MAX_SEED = 10**15  # some more may be added to it, and torch takes 64 bits


def drawing_problems(
    seed: int, scale: float | None, guidance_scale: float | None, num_inference_steps: int | None
) -> list[str]:
    """What is wrong with how pictures shall be drawn."""
    problems = []
    if abs(seed) > MAX_SEED:
        problems.append(f"--seed {seed} must be between -{MAX_SEED} and {MAX_SEED}.")
    if num_inference_steps is not None and not 1 <= num_inference_steps <= 1000:
        problems.append(f"--num_inference_steps {num_inference_steps} must be between 1 and 1000.")
    if guidance_scale is not None and not 0 <= guidance_scale < float("inf"):
        problems.append(f"--guidance_scale {guidance_scale:g} must be a number from 0 on.")
    if scale is not None and not -100 <= scale <= 100:
        problems.append(f"--scale {scale:g} must be between -100 and 100.")
    return problems


@Parameter(name="*")  # each field is a flag of its own
@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """What is drawn, with what, and who looks at it: the options of every verb that measures pictures."""

    base: str | None = None
    """Folder, file or Hub id of the base model, where no run names it."""

    captions: Path | None = None
    """A text file with a caption in each line to draw, instead of the run's."""

    limit: int | None = None
    """Captions at most, spread over all."""

    num_images: int = 1
    """Pictures of each caption; from 2 on, how much they differ is measured too."""

    seed: int = 0
    """Added to all seeds."""

    scale: float = 1.0
    """Scale of the adapter."""

    guidance_scale: float | None = None
    """Classifier-free guidance. Not given: the run's, else the default of the model's pipeline."""

    num_inference_steps: int | None = None
    """Sampling steps. Not given: the run's, else 25."""

    size: str | None = None
    """Width and height, as in 832x1216. Not given: that of the run's previews, else the model's own."""

    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """What the model computes in. Not given: as the run."""

    extractor: list[str] | None = None
    """What looks at the pictures, once for each: photographs, inception, starter, or a vision model of transformers."""

    inception_weights: str | None = None
    """torch-fidelity's file with the weights of Inception-v3. Not given: downloaded."""

    captioner: str | None = None
    """An image-to-text model: what it says of each picture is compared with the caption, by BLEU and ROUGE-L."""

    aesthetic_model: str | None = None
    """A classifier of transformers with one output, or with a label 'aesthetic'."""

    ocr_model: str | None = None
    """An image-to-text model that reads what is written, for captions that quote something."""

    cache_dir: str | None = None
    """Folder of downloaded models, and of what was seen in pictures once. Not given: the run's."""

    to: Path | None = None
    """Folder for pictures, numbers and page. Not given: one in the run's, named after the verb."""

    def require_sound(self, *, limit: int = 1, num_images: int = 1) -> None:
        """Raise ConfigError for values that mean nothing, all of them at once; two of them have to be so large."""
        problems = []
        for flag, value, least in (("limit", self.limit, limit), ("num_images", self.num_images, num_images)):
            if value is not None and value < least:
                problems.append(f"--{flag} {value} must be at least {least}.")
        problems += drawing_problems(self.seed, self.scale, self.guidance_scale, self.num_inference_steps)
        if self.captions is not None and not self.captions.is_file():
            problems.append(f"--captions {self.captions} is no file; give one with a caption in each line.")
        problems += self.more_problems()
        if problems:
            raise ConfigError("\n".join(problems))

    def more_problems(self) -> list[str]:
        """What is wrong with the options of one verb alone."""
        return []


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(DrawOptions):
    """The options of `evaluate`, beside the adapter."""

    reference: Path | None = None
    """A folder of true pictures to compare with. Without --captions, its captions are drawn and belong to them."""

    anyway: bool = False
    """Measure FID on fewer than 500 pictures too."""

    against: Path | None = None
    """Another evaluation of the same captions and seeds, to be compared with picture by picture."""

    def more_problems(self) -> list[str]:
        """What is wrong with the reference."""
        if self.reference is None or self.reference.is_dir():
            return []
        return [f"--reference {self.reference} is no folder of pictures."]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ForgettingOptions(DrawOptions):
    """The options of `forgetting`, beside the adapter."""

    captions: Path | None = None
    """A text file with a caption in each line. Not given: those that go with the base, else a list of ours."""

    limit: int | None = None
    """Captions at most, from 12 on, spread over all. Not given: 60."""

    num_images: int = 2
    """Pictures of each caption, from 2 on: the second shows what another seed does."""

    extractor: list[str] | None = None
    """What looks at the pictures, as in evaluate; the last one says how far they moved."""
