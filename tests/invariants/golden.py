"""The first steps of runs as they were when recorded: python -m tests.invariants.golden [NAME ...] records them anew.

Runs are compared with each other everywhere else, so a change that moves all of them alike would pass. These are
compared with numbers in a file, which also says which versions of which libraries made them.
"""

import functools
import hashlib
import json
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.families import miniature, registry
from tests.conftest import Running, make_colours, metrics, replaced, small_flags

FILE = Path(__file__).parent / "golden" / "trajectories.json"
LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy", "pillow")
NUM_STEPS, NUM_DEMO_STEPS = 5, 20
ADAPTER = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Trajectory:
    """What a run did: the loss of its first steps, and the adapter of its last one."""

    losses: list[float]
    adapter: str | None = None  # hash of names and values; equal on equal processors
    norms: dict[str, float] | None = None  # of all A and of all B: comparable everywhere

    @classmethod
    def of(cls, folder: Path) -> "Trajectory":
        tensors = load_file(folder / ADAPTER)
        halves = {"A": ".lora_A.", "B": ".lora_B."}
        norms = {half: norm(value for name, value in tensors.items() if mark in name) for half, mark in halves.items()}
        return cls([row["loss"] for row in metrics(folder)], hash_of(tensors), norms)


def environment() -> dict[str, str]:
    """What decides the last bits of a sum: the libraries, and the processor that their kernels are chosen by."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    found = {name: version(name) for name in LIBRARIES}
    return {**found, "processor": f"{model}, {torch.backends.cpu.get_cpu_capability()}"}


def hash_of(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode() + value.numpy().tobytes())
    return digest.hexdigest()


def norm(values: Iterator[Tensor]) -> float:
    return torch.stack([value.double().square().sum() for value in values]).sum().sqrt().item()


def run_family(family: str, folder: Path) -> Trajectory:
    """Five steps of a family's miniature, nulls, crops and flips among them."""
    miniature.write(family, folder / "model")
    flags = [*small_flags(folder / "model", make_colours(folder / "data"), folder / "cache"), "--no-buckets"]
    more = ["--random_flip", "--caption_dropout", "0.3", "--output_dir", str(folder / "out")]
    ended = Running(
        [*replaced(flags, max_train_steps=NUM_STEPS, lora_layers="attention+mlp"), *more], folder / "log"
    ).wait()
    assert ended.code == 0, ended.output
    return Trajectory.of(folder / "out")


def run_demo(folder: Path) -> Trajectory:
    """The first steps of what `make demo` trains; the run is stopped after them."""
    running = Running(["--output_dir", str(folder / "out"), "--cache_dir", str(folder / "cache")], folder / "log")
    running.wait_for_step(folder / "out", NUM_DEMO_STEPS)
    running.kill(signal.SIGTERM)
    ended = running.wait()
    assert ended.code == 75, ended.output
    return Trajectory([row["loss"] for row in metrics(folder / "out")[:NUM_DEMO_STEPS]])


def record(names: list[str]) -> None:
    """Run what is named, everything if nothing is, and keep it; what is not run again is kept as it was."""
    every = [*sorted(registry.NAMES), "demo"]
    assert set(names) <= set(every), f"only of {every}"
    found: dict[str, object] = json.loads(FILE.read_text(encoding="utf-8")) if names else {}
    assert not names or found["environment"] == environment(), "on another machine, only all of them together"
    with tempfile.TemporaryDirectory() as folder:
        for name in names or every:
            (Path(folder) / name).mkdir()
            run = run_demo if name == "demo" else functools.partial(run_family, name)
            found[name] = vars(run(Path(folder) / name))
    FILE.write_text(json.dumps({"environment": environment(), **found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record(sys.argv[1:])
