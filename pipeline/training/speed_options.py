"""Options of how a step is executed: what it computes is the same."""

from dataclasses import dataclass
from typing import Literal

Choice = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """How a step is executed."""

    compile: bool = False
    """Compile the denoiser's blocks with torch.compile, also with an adapter and recomputed activations. The first
    steps take minutes, later runs read the kernels from the cache. Losses differ from the eager ones by rounding. On a
    CPU it was slower where it was measured."""

    cuda_graphs: Choice = "auto"
    """Launch the kernels of a step all at once, as one graph for each shape of batch: a host can need longer for them
    than a GPU. Each graph is compared with what it was recorded from before it is used. auto: on NVIDIA GPUs, where
    nothing in the step needs the host. On a CPU, 'on' rehearses it on the same fixed tensors and saves no time."""
