"""What there is to adapt in a model, as its family says it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Targets:
    """What there is to adapt in a model: layers' names by preset, and those that get no gradient by construction."""

    named: Mapping[str, tuple[str, ...]]  # attention, mlp, condition_only
    without_gradient: tuple[str, ...] = ()


CLIP_TEXT = Targets({"attention": ("q_proj", "k_proj", "v_proj", "out_proj"), "mlp": ("fc1", "fc2")})
