"""What a model family is: six facts and four methods. Nothing else in the pipeline asks which family it has."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.conditioning import Conditioning
from pipeline.errors import CheckpointError
from pipeline.families.options import INDEX, ModelOptions
from pipeline.objective.paths import VariancePreserving

REGISTRY = {"StableDiffusionPipeline": "pipeline.families.sd:StableDiffusion"}


@dataclass(frozen=True)
class Targets:
    """What there is to adapt in a model: layers' names by preset, and those that get no gradient by construction."""

    named: Mapping[str, tuple[str, ...]]  # attention, mlp, condition_only
    without_gradient: tuple[str, ...] = ()


class Family(ABC):
    """One kind of model: how it is loaded, conditioned, noised and saved."""

    name: ClassVar[str]
    pipeline_class: ClassVar[str]  # in diffusers
    denoiser: ClassVar[str]  # the attribute of the pipeline that is trained
    size_multiple: ClassVar[int]  # pixels: sides must divide by it
    encoders: ClassVar[tuple[str, ...]]  # the pipeline's parts that turn text into conditioning

    def __init__(self, folder: Path, variant: str | None = None) -> None:
        self.folder, self.variant = folder, variant

    def load(self, *parts: str, dtype: torch.dtype = torch.float32) -> Any:
        """The stock pipeline with only the named parts loaded, from local files alone."""
        import diffusers

        index = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
        absent = {name: None for name, value in index.items() if isinstance(value, list) and name not in parts}
        try:
            return getattr(diffusers, self.pipeline_class).from_pretrained(
                self.folder,
                dtype=dtype,
                variant=self.variant,
                local_files_only=True,
                requires_safety_checker=False,
                **absent,
            )
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.folder} cannot be loaded as {self.pipeline_class}: {error}") from error

    def around(self, denoiser: Any, dtype: torch.dtype) -> Any:
        """The stock pipeline around a live denoiser, with the autoencoder's decoder and no text encoder."""
        pipe = self.load("vae", "scheduler", dtype=dtype)
        del pipe.vae.encoder
        pipe.register_modules(**{self.denoiser: denoiser})
        return pipe

    def truncated(self, captions: Iterable[str]) -> dict[str, str]:
        """The captions that have more tokens than the text encoder reads, each with the end that is lost."""
        tokenizer = self.load("tokenizer").tokenizer
        limit = tokenizer.model_max_length
        lost = {}
        for caption in captions:
            # A token holds at least one letter, so most captions need no look.
            tokens = tokenizer(caption, add_special_tokens=False).input_ids if len(caption) > limit - 2 else []
            if len(tokens) > limit - 2:
                lost[caption] = tokenizer.decode(tokens[limit - 2 :])
        return lost

    def part_config(self, part: str) -> dict[str, Any]:
        """The configuration of one part, read without loading it."""
        for name in ("config.json", f"{part}_config.json"):
            path = self.folder / part / name
            if path.is_file():
                config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                return config
        raise CheckpointError(f"{self.folder} has no {part}/config.json: the model folder is incomplete.")

    @property
    @abstractmethod
    def targets(self) -> Targets:
        """The denoiser's layers that can be adapted."""

    @property
    @abstractmethod
    def native_pixels(self) -> int:
        """The side the model was trained at."""

    @abstractmethod
    def latent_shape(self, pixels: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a square picture."""

    @abstractmethod
    def path(self) -> VariancePreserving:
        """The path from data to noise, read from the checkpoint's scheduler."""

    @abstractmethod
    def encode_text(self, pipe: Any, caption: str) -> dict[str, Tensor]:
        """The text states of one caption, exactly as the pipeline makes them at inference."""

    @abstractmethod
    def encode_image(self, pipe: Any, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, in the units the denoiser works in, [b c h w] each."""

    @abstractmethod
    def denoise(
        self, model: Any, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The denoiser's prediction at time t."""


def resolve(options: ModelOptions, default: Path, cache_dir: str | None) -> Path:
    """The local folder of a model: a folder as it is, a Hub id by download, nothing at all for the default."""
    folder = options.local_folder(default)
    return folder if folder is not None else _download(str(options.pretrained_model_name_or_path), options, cache_dir)


def _download(name: str, options: ModelOptions, cache_dir: str | None) -> Path:
    from diffusers import DiffusionPipeline

    try:
        return Path(
            DiffusionPipeline.download(name, revision=options.revision, variant=options.variant, cache_dir=cache_dir)
        )
    except Exception as error:  # the Hub client raises many kinds; each means that the model is not to be had
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{name} is neither a folder here nor to be had from the Hub ({reason}).") from error


def detect(folder: Path, variant: str | None = None) -> Family:
    """The family of a model folder, by the pipeline class its model_index.json names."""
    class_name = json.loads((folder / INDEX).read_text(encoding="utf-8")).get("_class_name")
    if class_name not in REGISTRY:
        known = ", ".join(sorted(REGISTRY))
        raise CheckpointError(f"{folder} is a {class_name}, which is not supported; supported: {known}.")
    module, name = REGISTRY[class_name].split(":")
    family: Family = getattr(import_module(module), name)(folder, variant)
    return family
