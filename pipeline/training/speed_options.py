"""Options of how a step is executed: what it computes is the same."""

from dataclasses import dataclass
from typing import Literal

Choice = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """How a step is executed."""

    cuda_graphs: Choice = "auto"
    """Launch the kernels of a step all at once, as one graph for each shape of batch: a host can need longer for them
    than a GPU. Each graph is compared with what it was recorded from before it is used. auto: on NVIDIA GPUs, where
    nothing in the step needs the host. On a CPU, 'on' rehearses it on the same fixed tensors and saves no time."""
