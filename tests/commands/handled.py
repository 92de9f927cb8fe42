"""What inspect, export and merge are given and leave behind: an adapter in every dialect, files, headers, effects."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.adapter.files import kohya, writer
from pipeline.adapter.names import pairs
from pipeline.commands import adapters
from tests.adapter.dialects import SD, old_dialect
from tests.adapter.learnt import KINDS, learnt

# The flags of a `finished_run` that held four pictures out and left a checkpoint in its middle.
HALF = ["--validation_split", "0.5", "--checkpointing_steps", "6", "--keep", "last"]
HALF += ["--learning_rate", "1e-2"]


def in_every_dialect(family, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Path]]:
    """The tensors of one adapter, and where it is in every dialect."""
    tensors = {name: v.clone() for name, v in writer.state_dict(learnt(family, **KINDS["convolutions"])).items()}
    for name, written in (("kohya", kohya.to_kohya(tensors, SD, dict.fromkeys(pairs(tensors), 7.0))),
                          ("old diffusers", old_dialect(tensors)), ("diffusers", tensors)):  # fmt: skip
        save_file(written, folder / f"{name}.safetensors")
    adapters.export(folder / "diffusers.safetensors", folder / "peft", "peft", family.source.folder)
    files = {name: folder / f"{name}.safetensors" for name in ("kohya", "old diffusers", "diffusers")}
    return tensors, files | {"peft": folder / "peft"}


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def header_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def alike(first: torch.Tensor, second: torch.Tensor, base: torch.Tensor, tolerance: float = 1e-5) -> None:
    effect = (first - base).norm()
    assert effect > 0.01 * base.norm()
    assert (first - second).norm() <= tolerance * effect
