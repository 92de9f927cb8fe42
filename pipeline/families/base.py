"""What a model family is: a few facts and a few methods. Nothing else in the pipeline asks which family it has."""

import functools
import inspect
import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.conditioning import Conditioning, Geometry
from pipeline.errors import CheckpointError
from pipeline.families import folder, single_file
from pipeline.families.options import INDEX, Place
from pipeline.families.targets import CLIP_TEXT, Mark, Targets
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import DiffusionPath


class Family(ABC):
    """One kind of model: how it is loaded, conditioned, noised and saved."""

    name: ClassVar[str]
    pipeline_class: ClassVar[str]  # in diffusers
    denoiser: ClassVar[str]  # the attribute of the pipeline that is trained
    size_multiple: ClassVar[int]  # pixels: sides must divide by it
    encoders: ClassVar[tuple[str, ...]]  # the pipeline's parts that turn text into conditioning
    trainable_encoders: ClassVar[tuple[str, ...]] = ()  # of CLIP: diffusers loads adapters for no others
    comfyui_prefixes: ClassVar[dict[str, str]] = {}  # of kohya's names, where ComfyUI does not read diffusers' own
    comfyui_reads_diffusers: ClassVar[bool] = False  # by its rules, restated in tests/adapter/comfyui_rules.py
    marks: ClassVar[tuple[Mark, ...]]  # by which an adapter's file is known to be for it
    tested_on: ClassVar[str] = "miniature"
    uses_null: ClassVar[bool] = True  # whether its sampler compares with an empty prompt (classifier-free guidance)

    def __init__(self, place: Place, max_sequence_length: int | None = None) -> None:
        self.place, self.folder, self._given_length = place, place.folder, max_sequence_length

    def load(self, *parts: str, dtype: torch.dtype = torch.float32) -> Any:
        """The stock pipeline with only the named parts loaded, from local files alone."""
        return (single_file if self.place.file else folder).load(self, parts, dtype)

    @functools.cached_property
    def index(self) -> dict[str, Any]:
        """What model_index.json says."""
        found: dict[str, Any] = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
        return found

    def load_encoders(self, dtype: torch.dtype = torch.float32) -> Any:
        """The pipeline with what turns pictures and captions into model input.

        An autoencoder that says it overflows in half precision stays in float32.
        """
        pipe = self.load("vae", *self.encoders, dtype=dtype)
        if dtype != torch.float32 and pipe.vae.config.get("force_upcast", False):
            pipe.vae.to(torch.float32)
        return pipe

    def around(self, denoiser: Any, dtype: torch.dtype) -> Any:
        """The stock pipeline around a live denoiser, with the autoencoder's decoder and no text encoder."""
        pipe = self.load("vae", "scheduler", dtype=dtype)
        del pipe.vae.encoder
        pipe.register_modules(**{self.denoiser: denoiser})
        return pipe

    def as_read(self, pipe: Any, caption: str) -> str:
        """The text that the encoder is given for a caption."""
        return caption

    def part_config(self, part: str) -> dict[str, Any]:
        """The configuration of one part, read without loading it."""
        own = self.place.vae if part == "vae" else None
        for path in (self.folder / part / "config.json", self.folder / part / f"{part}_config.json"):
            path = path if own is None else own / path.name
            if path.is_file():
                config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                return config
        raise CheckpointError(f"{self.folder} has no {part}/config.json: the model folder is incomplete.")

    @property
    def default_guidance(self) -> float:
        """The guidance that the pipeline draws with where none is asked for."""
        return float(self._default("guidance_scale"))

    @property
    def max_sequence_length(self) -> int | None:
        """How many tokens T5 or Gemma is given: as asked, or as many as the pipeline does; None for CLIP alone."""
        return self._given_length or self._default("max_sequence_length")

    def _default(self, word: str) -> Any:
        """What the pipeline's call takes for a word that is not given; None if it does not know the word."""
        import diffusers

        known = inspect.signature(getattr(diffusers, self.pipeline_class).__call__).parameters
        return known[word].default if word in known else None

    @property
    def architecture(self) -> str:
        """What ModelSpec calls the base, where there is a file for ComfyUI."""
        return ""

    @property
    def reader(self) -> tuple[str, int | None]:
        """The tokenizer of the encoder that reads furthest, and its limit; None: what the tokenizer itself says."""
        return "tokenizer", None

    @property
    @abstractmethod
    def targets(self) -> Targets:
        """The denoiser's layers that can be adapted."""

    def targets_of(self, component: str) -> Targets:
        """What can be adapted in the denoiser or a text encoder."""
        return self.targets if component == self.denoiser else CLIP_TEXT

    @property
    @abstractmethod
    def native_pixels(self) -> int:
        """The side the model was trained at."""

    @abstractmethod
    def latent_shape(self, pixels: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a square picture."""

    @abstractmethod
    def path(self, options: ObjectiveOptions, pixels: int) -> DiffusionPath:
        """The path from data to noise, read from the checkpoint's scheduler; CheckpointError for an unsuited model."""

    @abstractmethod
    def encode_text(self, pipe: Any, caption: str | None) -> dict[str, Tensor]:
        """The text states of one caption, or of the null, by the pipeline's names and as it makes them at inference."""

    def size_states(self, geometry: Geometry) -> dict[str, Tensor]:
        """What the denoiser is told of a picture's size and cut; nothing where it is told nothing."""
        return {}

    @abstractmethod
    def encode_image(self, pipe: Any, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, in the units the denoiser works in, [b c h w] each."""

    @abstractmethod
    def denoise(
        self, model: Any, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The denoiser's prediction at time t."""
