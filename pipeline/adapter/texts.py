"""Text states computed by text encoders that learn: with gradients for training, without for everything else."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pipeline.adapter import dropout
from pipeline.adapter.adapted import Adapted
from pipeline.conditioning import Conditioning, stack
from pipeline.families.base import Family


@dataclass(frozen=True)
class LiveTexts:
    """One caption at a time, as the pipeline does, so that no text depends on its neighbours in the batch."""

    family: Family
    pipe: Any  # the pipeline of the live encoders
    encoders: Adapted

    def __call__(self, caption: str | None) -> dict[str, Tensor]:
        """The states of a caption, or of the null, for sampling and measuring."""
        with self.encoders.evaluating():
            return self.family.encode_text(self.pipe, caption)

    def learning(self, captions: tuple[str | None, ...], rows: tuple[int, ...]) -> Conditioning:
        """The states of a batch, through which gradients flow; `rows` are the numbers its dropout is drawn from."""
        layers = [layer for model in self.encoders.models.values() for layer in dropout.installed(model)]
        states = []
        for caption, row in zip(captions, rows, strict=True):
            for layer in layers:
                layer.rows = (row,)
            states.append(self.family.encode_text(self.pipe, caption))
        return stack(states)
