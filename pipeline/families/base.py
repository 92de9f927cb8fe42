"""What a model family is: a few facts and a few methods. Nothing else in the pipeline asks which family it has."""

import copy
import functools
import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.conditioning import Conditioning, Part, Ragged
from pipeline.families import schedules
from pipeline.families.checkpoint import folder, single_file
from pipeline.families.checkpoint.autoencoder import pixels_per_latent
from pipeline.families.checkpoint.source import ModelSource
from pipeline.families.options import ModelOptions
from pipeline.families.targets import CLIP_TEXT, KeySignature, TargetModules
from pipeline.geometry import Geometry, Size
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import DiffusionPath


class Family(ABC):
    """One kind of model: how it is conditioned, noised and called. Where it lies, its source knows."""

    name: ClassVar[str]
    pipeline_class: ClassVar[str]  # in diffusers
    denoiser: ClassVar[str]  # the attribute of the pipeline that is trained
    size_multiple: ClassVar[int]  # pixels: sides must divide by it
    encoders: ClassVar[tuple[str, ...]]  # the pipeline's parts that turn text into conditioning
    text_widths: ClassVar[dict[str, tuple[str, ...]]]  # of the denoiser's configuration: the encoders that add up to it
    trainable_encoders: ClassVar[tuple[str, ...]] = ()  # of CLIP: diffusers loads adapters for no others
    comfyui_prefixes: ClassVar[dict[str, str]] = {}  # of kohya's names, where ComfyUI does not read diffusers' own
    comfyui_knows_original_names: ClassVar[bool] = False  # and its file has those, for the whole denoiser
    comfyui_reads_diffusers: ClassVar[bool] = False  # by its rules, restated in tests/adapter/comfyui_rules.py
    has_bfl_names: ClassVar[bool] = False  # in Black Forest Labs' code, which other trainers' files keep
    key_signatures: ClassVar[tuple[KeySignature, ...]]  # by which an adapter's file is known to be for it
    tested_on: ClassVar[str] = "miniature"
    supports_cfg: ClassVar[bool] = True  # whether its sampler compares with the unconditional prediction
    read_by_clip: ClassVar[bool] = False  # and by nothing else: then layers can be skipped, and prompts cut into chunks
    layers_left_out: ClassVar[int] = 0  # at the end of CLIP's text encoders, where the pipeline reads before them
    negates_velocity: ClassVar[bool] = False  # its transformer's goes from noise to data
    asks_in_turn: ClassVar[bool] = False  # its pipeline, for captions' and unconditional predictions, not at once
    renormalises_guidance: ClassVar[bool] = False  # its pipeline: to the norms of the caption's prediction, row by row
    perturbed_attention: ClassVar[str] = ""  # a pattern of self-attention that can be taken away; none: there is none
    ragged: ClassVar[Ragged] = "pad"  # what a batch does with prompt embeddings of different lengths

    def __init__(self, source: ModelSource, options: ModelOptions | None = None) -> None:
        self.source, self.options = source, options or ModelOptions()

    def told(self, options: ModelOptions) -> "Family":
        """The same model with other options of how it is asked; not for another model."""
        other = copy.copy(self)
        other.options = options
        return other

    def load(self, *parts: str, dtype: torch.dtype = torch.float32) -> Any:
        """The stock pipeline with only the named parts loaded, from local files alone."""
        pipe = (single_file if self.source.file else folder).load(self.source, parts, dtype)
        if "scheduler" in parts and self.options.rescale_betas_zero_snr:
            schedules.rescale(pipe)
        return pipe

    def load_encoders(self, dtype: torch.dtype = torch.float32) -> Any:
        """The pipeline with what turns pictures and captions into model input.

        An autoencoder that says it overflows in half precision stays in float32.
        """
        pipe = self.load("vae", *self.encoders, dtype=dtype)
        if dtype != torch.float32 and pipe.vae.config.get("force_upcast", False):
            pipe.vae.to(torch.float32)
        return pipe

    @functools.cached_property
    def tokenizers(self) -> Any:
        """The pipeline with its tokenizers alone, loaded once."""
        return self.load(*(name for name in self.encoders if name.startswith("tokenizer") and self.source.has(name)))

    def around(self, denoiser: Any, dtype: torch.dtype) -> Any:
        """The stock pipeline around a live denoiser, with the autoencoder's decoder and no text encoder."""
        pipe = self.load("vae", "scheduler", dtype=dtype)
        del pipe.vae.encoder
        pipe.register_modules(**{self.denoiser: denoiser})
        return pipe

    def prompt_template(self, pipe: Any, caption: str) -> str:
        """The text that the encoder is given for a caption."""
        return caption

    def part_config(self, part: str) -> dict[str, Any]:
        """The configuration of one part, read without loading it; the scheduler's as it is used."""
        config = self.source.part_config(part)
        is_rescaled = part == "scheduler" and self.options.rescale_betas_zero_snr
        return {**config, **schedules.RESCALED} if is_rescaled else config

    @property
    def default_guidance(self) -> float:
        """The guidance scale that the pipeline takes where none is given."""
        return float(self._default("guidance_scale"))

    @property
    def max_sequence_length(self) -> int | None:
        """How many tokens T5 or Gemma is given: as asked, or as many as the pipeline does; None for CLIP alone."""
        return self.options.max_sequence_length or self._default("max_sequence_length")

    @property
    def is_told_guidance(self) -> bool:
        """Whether the denoiser was distilled from a guided model, and takes the guidance as a number."""
        return False

    @property
    def num_chunks(self) -> int:
        """How many times as many tokens as CLIP reads at once make a prompt."""
        return self.options.prompt_chunks or 1

    @property
    def reads_to_a_limit(self) -> bool:
        """Whether the length of what T5 or Gemma reads can be chosen."""
        return self._default("max_sequence_length") is not None

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
    def tokenizer_limit(self) -> tuple[str, int | None]:
        """The tokenizer of the encoder that reads furthest, and its limit; None: what the tokenizer itself says."""
        return "tokenizer", None

    @property
    @abstractmethod
    def targets(self) -> TargetModules:
        """The denoiser's layers that can be adapted."""

    def targets_of(self, component: str) -> TargetModules:
        """What can be adapted in the denoiser or a text encoder."""
        return self.targets if component == self.denoiser else CLIP_TEXT

    @property
    def native_size(self) -> Size:
        """The size the denoiser was trained at: its latents times the autoencoder's factor."""
        return Size.square(int(self.part_config(self.denoiser)["sample_size"]) * self.pixels_per_latent)

    @property
    def longest_side(self) -> int | None:
        """The longest side in pixels that the denoiser has positions for; None where it takes any."""
        return None

    @property
    def pixels_per_latent(self) -> int:
        """The side in pixels of one latent."""
        return pixels_per_latent(self.part_config("vae"))

    def latent_shape(self, size: Size) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a picture."""
        factor = self.pixels_per_latent
        return int(self.part_config("vae")["latent_channels"]), size.height // factor, size.width // factor

    @property
    def patch_size(self) -> int:
        """The side in latents of one of the denoiser's tokens."""
        return int(self.part_config(self.denoiser).get("patch_size", 1))

    def num_tokens(self, latents: Float[Tensor, "b c h w"]) -> int:
        """How many tokens the denoiser sees of each picture."""
        return (latents.shape[2] // self.patch_size) * (latents.shape[3] // self.patch_size)

    @abstractmethod
    def path(self, options: ObjectiveOptions) -> DiffusionPath:
        """The path from data to noise, read from the checkpoint's scheduler; CheckpointError for an unsuited model."""

    @abstractmethod
    def encode_text(self, pipe: Any, captions: list[str]) -> dict[str, Tensor]:
        """The embeddings of captions, [b ...] each, by the pipeline's names and as it makes them at inference."""

    def encode_unconditional(self, pipe: Any, count: int = 1) -> dict[str, Tensor]:
        """What guidance compares with, `count` times: the empty prompt's, where the pipeline takes nothing else."""
        return self.encode_text(pipe, [""] * count)

    @property
    @abstractmethod
    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of one example's embeddings in their full length, by the names of `encode_text`."""

    def _num_clip_tokens(self, part: str = "text_encoder") -> int:
        """How many tokens a CLIP text encoder makes states of, in all its chunks."""
        return int(self.part_config(part)["max_position_embeddings"]) * self.num_chunks

    @property
    def text_parts(self) -> dict[str, Part]:
        """What each of several text encoders makes of an example's embeddings; {} where there is one alone."""
        return {}

    def embed(self, pipe: Any, caption: str | None) -> dict[str, Tensor]:
        """The prompt embeddings of one caption, or with None the unconditional ones, without a batch dimension."""
        rows = self.encode_unconditional(pipe) if caption is None else self.encode_text(pipe, [caption])
        return {name: value[0] for name, value in rows.items()}

    @staticmethod
    def size_states(geometry: Geometry) -> dict[str, Tensor]:
        """What the denoiser is told of a picture's size and cut; nothing where it is told nothing."""
        return {}

    def encode_image(self, pipe: Any, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, in the units the denoiser works in, [b c h w] each."""
        posterior = pipe.vae.encode(pixels.to(pipe.vae.device, pipe.vae.dtype)).latent_dist
        shift, scale = pipe.vae.config.shift_factor or 0.0, pipe.vae.config.scaling_factor
        return (posterior.mean - shift) * scale, posterior.std * scale

    @abstractmethod
    def denoise(
        self, model: Any, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The denoiser's prediction at time t."""
