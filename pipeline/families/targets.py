"""Which layers of a model can be adapted, and which give it away in an adapter's file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TargetModules:
    """Layers that can be adapted, by preset, and those that get no gradient by construction."""

    named: Mapping[str, tuple[str, ...]]  # attention, mlp, condition_only
    without_gradient: tuple[str, ...] = ()


CLIP_TEXT = TargetModules({"attention": ("q_proj", "k_proj", "v_proj", "out_proj"), "mlp": ("fc1", "fc2")})


@dataclass(frozen=True)
class KeySignature:
    """Layers by which an adapter's file is known to be for a family, as a regular expression for their names.

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
