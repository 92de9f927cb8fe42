"""How a run's steps are executed, and why."""

from dataclasses import dataclass

import torch

from pipeline.adapter.compiled import compiler_missing
from pipeline.cards import Device
from pipeline.config import Run
from pipeline.engine import Precision
from pipeline.errors import ConfigError
from pipeline.remembered import cache_folder


@dataclass(frozen=True)
class Speed:
    """What makes steps quicker, as it was chosen."""

    graphs: bool  # steps are launched as graphs; on a CPU that is rehearsed
    rows: tuple[tuple[str, str], ...]  # for the plan; nothing where all is as ever


def choose(run: Run, *, device: torch.device | Device, precision: Precision) -> Speed:
    """What a run is executed with, here or on a card that is not here. Raises ConfigError for what cannot be."""
    obstacle = _graphs_obstacle(run, precision)
    asked, on_gpu = run.train.cuda_graphs, (device.kind if isinstance(device, Device) else device.type) == "cuda"
    if asked == "on" and obstacle is not None:
        raise ConfigError(f"--cuda_graphs on: {obstacle}; leave it out.")
    graphs = asked == "on" or (asked == "auto" and on_gpu and obstacle is None)
    rows = []
    if graphs:
        how = "launched as one graph for each shape" if on_gpu else "a rehearsal of graphs on fixed tensors"
        rows.append(("step", f"{how} (--cuda_graphs {asked})"))
    elif on_gpu and asked == "auto":
        rows.append(("step", f"launched kernel by kernel: {obstacle}"))
    if run.train.compile:
        rows.append(("compiled", _compiled(run, device)))
    if run.train.base_quantization is not None:
        kind = run.train.base_quantization
        rows.append(("base", f"linear layers of its blocks in {kind}: the adapter learns on what is left of them"))
    if run.train.offload_base:
        rows.append(("blocks", "of the base: in the host's memory, brought one ahead of use"))
    return Speed(graphs, tuple(rows))


def _graphs_obstacle(run: Run, precision: Precision) -> str | None:
    """What in the steps of a run needs the host."""
    if run.adapter.train_text_encoder:
        return "text encoders that learn read captions on the host in each step"
    if run.train.offload_base:
        return "the base's blocks come from the host in each step"
    if precision.name == "fp16":
        return "float16 gradients are scaled by what the host reads of them; bf16 needs no scale"
    return None


def _compiled(run: Run, device: torch.device | Device) -> str:
    """What is compiled. Raises ConfigError where no compiler is; what is installed beside a card is not known."""
    missing = None if isinstance(device, Device) else compiler_missing(device)
    if missing is not None:
        raise ConfigError(f"--compile needs {missing}, which is not installed here; leave it out.")
    kernels = f"the blocks of the denoiser, while it learns; kernels are kept in {cache_folder(run.data.cache_dir)}"
    return f"{kernels}. On a CPU it was slower where it was measured" if device == torch.device("cpu") else kernels
