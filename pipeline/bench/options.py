"""What the verb `bench` takes beside the kind of bench. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cyclopts import Parameter

Kind = Literal["cpu", "gpu", "data", "scaling", "profile"]


@Parameter(name="*")  # each field is a flag of its own
@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured, and where it is kept."""

    rounds: int = 7
    """cpu: how often both programs run in turn; a round takes minutes."""

    shape: tuple[Literal["starter", "short", "small", "sd15", "toy"], ...] = ("starter", "small")
    """cpu: what is trained, several times. sd15 has Stable Diffusion 1.5's sizes: an hour, and 6 GB."""

    script: Path | None = None
    """cpu: diffusers' examples/text_to_image/train_text_to_image_lora.py. Not given: a loop that restates it."""

    model: tuple[str, ...] = ()
    """gpu: published models, several times; not given: all. profile: one of them, or a model folder; not given: the
    starter base."""

    lane: tuple[str, ...] = ()
    """gpu: ways to execute the step, several times; the first one at every batch size. Not given: eager, the plain
    loop, compiled, graphs, and both."""

    batch: tuple[int, ...] = ()
    """gpu: batch sizes, several times. Not given: the model's own."""

    lanes_only: bool = False
    """gpu: leave other ranks, checkpointing, and kernels that need not repeat out."""

    blocks: int | None = None
    """gpu: how many transformer blocks are kept, at full width; samples/s of all are then extrapolated."""

    steps: int = 30
    """gpu: how many are measured."""

    pictures: tuple[int, ...] = (1000, 10_000, 100_000)
    """data: how many a dataset has, several times; a million take half an hour and 50 GB of the temporary folder."""

    processes: tuple[int, ...] = (1, 2, 4)
    """scaling: how many, several times."""

    flags: str = ""
    """profile: flags of train_lora.py, as in --flags "--train_batch_size 4"."""

    toy: bool = False
    """gpu, scaling: miniatures and few steps, to see that everything runs."""

    to: Path | None = None
    """Folder for the JSON, and for the trace of profile; docs/make_benchmarks.py makes the page of what lies there."""
