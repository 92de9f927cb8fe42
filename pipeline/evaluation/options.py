"""Options of previews and of what measures pictures."""

from dataclasses import dataclass

from pipeline.errors import out_of_bounds
from pipeline.geometry import Size
from pipeline.sampling.options import GuidanceOptions


@dataclass(frozen=True, kw_only=True)
class PreviewOptions(GuidanceOptions):
    """Previews, and what measures the test set."""

    validation_prompt: tuple[str, ...] = ()
    """A prompt to draw, without and with the adapter; may be given several times."""

    num_validation_images: int = 4
    """Pictures per prompt; 0 draws nothing at all, for a run of which only the held-out loss is wanted."""

    validation_epochs: int | None = None
    """Epochs between validations; validation_steps says the same in optimizer steps."""

    validation_steps: int | None = None
    """Optimizer steps between validations, previews and held-out loss alike. Neither given: previews at the end only,
    the held-out loss as often as a tenth of the run allows, at most ten times."""

    validation_size: str | None = None
    """Width and height of the previews in pixels, as in 832x1216. Not given: the square of --resolution."""

    guidance_scale: float | None = None
    """Guidance of the previews. Not given: the default of the model's pipeline; 2 against the base, 4 against perturbed
    attention."""

    num_inference_steps: int = 25
    """Sampling steps of the previews."""

    clip_model_name_or_path: str | None = None
    """A CLIP model, folder or Hub id, that measures the pictures of the test set: how near they are to their captions
    and to the reference images. The starter base has one of its own."""

    @property
    def guidance(self) -> float:
        """The guidance in force, once the model is known."""
        assert self.guidance_scale is not None
        return self.guidance_scale

    @property
    def guiding(self) -> GuidanceOptions:
        """How previews are guided, without the rest."""
        return GuidanceOptions.of(vars(self))

    @property
    def size(self) -> Size | None:
        """The size of the previews, where one is asked for."""
        return None if self.validation_size is None else Size.parsed(self.validation_size)

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        infinity = float("inf")
        problems = super().problems()
        problems += out_of_bounds(
            self,
            num_validation_images=(0, infinity),
            validation_epochs=(1, infinity),
            validation_steps=(1, infinity),
            guidance_scale=(0, infinity),
            num_inference_steps=(1, 1000),
        )
        if self.validation_size is not None and (self.size is None or not self.size.area):
            problems.append(f"--validation_size {self.validation_size} is no width x height, as in 832x1216.")
        if not all(prompt.strip() for prompt in self.validation_prompt):
            problems.append("--validation_prompt is empty; say what to draw, or leave it out.")
        if self.num_validation_images == 0 and (self.validation_prompt or self.clip_model_name_or_path):
            flag = "--validation_prompt" if self.validation_prompt else "--clip_model_name_or_path"
            problems.append(f"{flag} wants pictures and --num_validation_images 0 draws none; leave one of them out.")
        if self.validation_epochs is not None and self.validation_steps is not None:
            problems.append("--validation_epochs and --validation_steps say the same thing twice; give one.")
        return problems
