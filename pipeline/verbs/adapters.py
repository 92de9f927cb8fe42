"""The verbs of adapter files."""

from pathlib import Path

from pipeline.adapter.names import Kind
from pipeline.errors import ConfigError


def inspect(adapter: Path, *, base: Path | None = None, json: bool = False) -> None:
    """Say what an adapter is: format, family, ranks, scales, size by block, what it says of itself, what is wrong.

    Example: python -m pipeline inspect outputs/demo

    Parameters
    ----------
    adapter
        A .safetensors file, an output folder or a folder of PEFT.
    base
        Folder of its base model: needed for names that two families share (kohya's of UNets), and checked where given.
    json
        The same for programs.
    """
    from pipeline.commands import adapters

    adapters.inspect(adapter, base, json)


def export(adapter: Path, to: Path, *, kind: Kind, base: Path | None = None, rank: int | None = None) -> None:
    """Write an adapter in another format, verified by reading it back.

    Example: python -m pipeline export outputs/demo demo.safetensors --kind kohya --base my_model

    Parameters
    ----------
    adapter
        A .safetensors file, an output folder or a folder of PEFT.
    to
        A new .safetensors file; for peft a new folder.
    kind
        diffusers, comfyui, kohya (for its scripts, A1111 and Forge), bfl (FLUX's original names) or peft.
    base
        Folder of its base model, for kohya's names of UNets, and for DoRA outside diffusers.
    rank
        Cut every layer to this rank and print what is lost; DoRA becomes a plain LoRA, whose difference is not exact.
    """
    from pipeline.commands import adapters

    adapters.export(adapter, to, kind, base, rank)


def merge(
    adapters: list[Path],
    *,
    to: Path,
    weight: list[float] | None = None,
    rank: int | None = None,
    base: Path | None = None,
) -> None:
    """Add adapters up: exactly, where ranks add up, or cut to a rank, and print what is lost, block by block.

    Example: python -m pipeline merge outputs/a outputs/b --to both.safetensors --weight 0.7 --weight 0.5 --rank 16

    Parameters
    ----------
    adapters
        Files or folders of adapters of one base model.
    to
        A new .safetensors file.
    weight
        Weight of each, in their order. Not given: 1.
    rank
        Cut every layer to this rank.
    base
        Folder of their base model, for kohya's names.
    """
    from pipeline.commands import adapters as files

    weights = weight or [1.0] * len(adapters)
    if len(weights) != len(adapters):
        raise ConfigError(f"--weight is given {len(weights)} times for {len(adapters)} adapters; give one for each.")
    files.merge(list(zip(adapters, weights, strict=True)), to, rank, base)
