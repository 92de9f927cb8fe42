"""Options of how a step is executed, and what the frozen base is kept in."""

from dataclasses import dataclass
from typing import Literal

from pipeline import put_off
from pipeline.adapter.options import Quantization

Choice = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """How a step is executed."""

    compile: bool = False
    """Compile the denoiser's blocks with torch.compile, also with an adapter and recomputed activations. The first
    steps take minutes, later runs read the kernels from the cache. Losses differ from the eager ones by rounding. On a
    CPU it was slower where it was measured."""

    cuda_graphs: Choice = "off"
    """Launch the kernels of a step all at once, as one graph for each shape of batch: a host can need longer for them
    than a GPU. Each graph is compared with what it was recorded from before it is used. auto: on NVIDIA GPUs, where
    nothing in the step needs the host; off until that was seen on one. On a CPU, 'on' rehearses it on the same fixed
    tensors and saves no time."""

    base_quantization: Quantization | None = None
    """Keep the linear layers of the frozen denoiser in few bits, so that less memory is needed: nf4 (needs
    bitsandbytes), int8 or fp8, with bf16 computation a quarter, half and half of their size. The adapter learns on,
    and is verified with, the base as it comes out of them; it is used with the whole one."""

    offload_base: bool = False
    """Keep the blocks of the frozen denoiser in the host's memory and bring each to the GPU while the one before it
    computes, for cards that cannot hold it; with --gradient_checkpointing. The result is the same."""

    @property
    def spares_base(self) -> bool:
        """Whether the frozen weights take less room on the device than they have."""
        return self.base_quantization is not None or self.offload_base

    def speed_problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        problems = []
        if self.base_quantization == "nf4" and not put_off.is_installed("bitsandbytes"):
            problems.append("--base_quantization nf4 needs a package that is missing: pip install bitsandbytes.")
        for name, is_asked in (("compile", self.compile), ("cuda_graphs on", self.cuda_graphs == "on")):
            if self.offload_base and is_asked:
                problems.append(f"--{name} needs the weights where they are: --offload_base moves them; leave one out.")
        return problems
