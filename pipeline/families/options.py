"""Options of the base model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import CheckpointError, ConfigError

INDEX = "model_index.json"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which pretrained model is adapted."""

    pretrained_model_name_or_path: str | None = None
    """Folder or Hub id of a diffusers model. Not given: the starter base that ships with t2i-lora."""

    revision: str | None = None
    """Branch, tag or commit of a Hub model."""

    variant: str | None = None
    """File variant of the model's weights, for example fp16."""

    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    """Read from the checkpoint's scheduler; give it only to assert what you expect."""

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        if self.pretrained_model_name_or_path == "":
            return ["--pretrained_model_name_or_path is empty; name a model, or leave it out for the starter base."]
        return []

    def local_folder(self, default: Path) -> Path | None:
        """The folder of a model that lies here, `default` where none is named; None for a Hub id.

        Raises CheckpointError or ConfigError for what can be neither, without loading anything.
        """
        name = self.pretrained_model_name_or_path
        folder = default if name is None else Path(name)
        if folder.is_file():
            raise CheckpointError(f"{name} is a file; give the folder of a diffusers model (the one with {INDEX}).")
        if not folder.is_dir():
            if str(name).startswith((".", "/", "~")) or str(name).count("/") != 1:
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
