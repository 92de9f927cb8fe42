"""What there is to adapt in a model, and what tells it from others in an adapter's file, as its family says it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Targets:
    """What there is to adapt in a model: layers' names by preset, and those that get no gradient by construction."""

    named: Mapping[str, tuple[str, ...]]  # attention, mlp, condition_only
    without_gradient: tuple[str, ...] = ()


CLIP_TEXT = Targets({"attention": ("q_proj", "k_proj", "v_proj", "out_proj"), "mlp": ("fc1", "fc2")})


@dataclass(frozen=True)
class Mark:
    """Layers that give a family away in an adapter's file, as a regular expression from the start of their names.

    Names are '<component>.<layer>'. Where other families have such layers too, all of them must have these sizes.
    """

    layer: str
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    beside: str = ""  # which must be there as well

    def fits(self, sizes: Mapping[str, tuple[int, int]]) -> bool:
        """Whether layers are so; `sizes` has the inputs and outputs of each by its name."""
        own = [value for name, value in sizes.items() if re.match(self.layer, name)]
        if not own or not any(re.match(self.beside, name) for name in sizes):
            return False
        return all(
            (not self.inputs or inputs in self.inputs) and (not self.outputs or outputs in self.outputs)
            for inputs, outputs in own
        )
