"""Options of the base model."""

from dataclasses import dataclass
from typing import Literal


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
