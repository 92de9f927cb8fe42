"""Options of the base model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline import shipped
from pipeline.errors import CheckpointError, ConfigError, out_of_bounds
from pipeline.families.checkpoint import single_file_keys
from pipeline.families.checkpoint.source import INDEX
from pipeline.hub_ids import may_be_hub_id

MAX_TOKENS = 512  # that any of the pipelines takes
MAX_CHUNKS = 32  # 2400 tokens of one prompt
MAX_SKIP = 31  # layers, of the deepest text encoder of CLIP's kind that a pipeline has


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which pretrained model is adapted."""

    pretrained_model_name_or_path: str | None = None
    """Folder, single .safetensors file or Hub id of a model. Not given: the starter base that ships with t2i-lora."""

    single_file_config: str | None = None
    """Folder or Hub id of a diffusers model whose configuration fits a single file; it lends the parts that the
    file lacks. Not given: the model that diffusers knows for such a file, from the Hub."""

    pretrained_vae_model_name_or_path: str | None = None
    """Folder or Hub id of an autoencoder to use instead of the model's own, of the same class and latents."""

    revision: str | None = None
    """Branch, tag or commit of a Hub model."""

    variant: str | None = None
    """File variant of the model's weights, for example fp16."""

    max_sequence_length: int | None = None
    """How many tokens of a caption T5 or Gemma reads. Not given: as many as the pipeline; then fewer are faster, and
    pictures have to be drawn with the same number."""

    long_prompts: Literal["truncate", "error", "chunks"] = "truncate"
    """What becomes of a caption or prompt that is longer than the text encoder reads: its end is not read, the run is
    refused, or CLIP reads it in chunks of 75 tokens whose states are joined (Stable Diffusion, XL), as compel does and,
    but for words at the edge of a chunk, ComfyUI."""

    prompt_chunks: int | None = None
    """With --long_prompts chunks: how many of them every prompt is read in, those that it does not fill empty. Not
    given: as many as the longest caption or prompt of the run needs."""

    clip_skip: int | None = None
    """Layers of CLIP's text encoders (Stable Diffusion, XL) left out before those that are read anyway, as diffusers
    counts: what A1111 and kohya call 2 is 1 here. Pictures have to be drawn with the same number."""

    training_guidance: float = 1.0
    """What a guidance-distilled model (FLUX.1 dev) is told its guidance is, while it learns and is measured: at 1 it
    answers unguided, which is what pictures can teach. Previews are told --guidance_scale."""

    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    """Read from the checkpoint's scheduler; give it only to assert what you expect."""

    rescale_betas_zero_snr: bool = False
    """Train and draw on the model's schedule rescaled to end in pure noise (arXiv 2305.08891), so that pictures can be
    as dark or bright as training's; models that predict v. Its authors draw with --guidance_rescale 0.7."""

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        if self.pretrained_model_name_or_path == "":
            return ["--pretrained_model_name_or_path is empty; name a model, or leave it out for the starter base."]
        if self.single_file_config is not None and self.file is None:
            return ["--single_file_config has an effect only with a single .safetensors file; leave it out."]
        if self.file is not None and (self.revision is not None or self.variant is not None):
            return ["--revision and --variant have no effect on a single .safetensors file; leave them out."]
        problems = out_of_bounds(
            self,
            max_sequence_length=(1, MAX_TOKENS),
            prompt_chunks=(1, MAX_CHUNKS),
            clip_skip=(1, MAX_SKIP),
            training_guidance=(0, 100),
        )
        if self.prompt_chunks is not None and self.long_prompts != "chunks":
            problems.append("--prompt_chunks has an effect only with --long_prompts chunks.")
        return problems

    @property
    def reading(self) -> dict[str, Any]:
        """How prompts are read where a pipeline would not do it so by itself, by the names of the flags."""
        told = {
            "max_sequence_length": self.max_sequence_length,
            "prompt_chunks": self.prompt_chunks if self.prompt_chunks != 1 else None,
            "clip_skip": self.clip_skip,
        }
        return {name: value for name, value in told.items() if value is not None}

    @property
    def drawing(self) -> dict[str, Any]:
        """The same, and the schedule where it is not the model's own: all that has to be said to draw as the run."""
        return self.reading | ({"rescale_betas_zero_snr": True} if self.rescale_betas_zero_snr else {})

    @property
    def reading_key(self) -> str:
        """How prompts are read, as part of what embeddings are kept by."""
        words = {"max_sequence_length": "tokens", "prompt_chunks": "chunks", "clip_skip": "skipped"}
        return "".join(f" {value} {words[name]}" for name, value in self.reading.items())

    @property
    def file(self) -> Path | None:
        """The single file that holds the model, where it is one."""
        name = self.pretrained_model_name_or_path
        return Path(name) if name is not None and Path(name).is_file() else None

    @property
    def local_vae(self) -> Path | None:
        """The folder of another autoencoder that lies here; None for a Hub id or where none is given.

        Raises CheckpointError for what can be neither.
        """
        name = self.pretrained_vae_model_name_or_path
        if name is None:
            return None
        if (Path(name) / "config.json").is_file():
            return Path(name)
        if not may_be_hub_id(name):
            raise CheckpointError(
                f"--pretrained_vae_model_name_or_path {name} is no folder of an autoencoder (the one with config.json)."
            )
        return None

    @property
    def local_folder(self) -> Path | None:
        """The folder of a model that lies here, the one that ships where none is named; None for a Hub id.

        For a model in a single file it is the folder of its configuration. Raises CheckpointError or ConfigError
        for what can be neither, without loading anything.
        """
        name = self.pretrained_model_name_or_path
        folder = shipped.BASE if name is None else Path(name)
        if self.file is not None:
            single_file_keys.names_in(self.file)
            name = self.single_file_config
            if name is None:
                return None
            folder = Path(name)
        if not folder.is_dir():
            if not may_be_hub_id(str(name)):
                raise CheckpointError(
                    f"{name} does not exist; give the folder of a diffusers model or a Hub id (user/name)."
                )
            return None
        if not (folder / INDEX).is_file():
            raise CheckpointError(f"{name} has no {INDEX}; give the top folder of a diffusers model.")
        if self.revision is not None:
            raise ConfigError(f"--revision has an effect only with a Hub id, and {folder} is a folder; leave it out.")
        if self.variant is not None and not any(folder.glob(f"*/*.{self.variant}*.safetensors")):
            raise ConfigError(f"--variant {self.variant}: {folder} holds no file of that variant; leave it out.")
        return folder
