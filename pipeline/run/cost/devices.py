"""The device at hand, and the memory that is free on it."""

import dataclasses
from pathlib import Path

import torch

from pipeline.cards import CARDS, Device


def at_hand(device: torch.device, num_processes: int) -> Device:
    """The device of one of several processes, and the memory that is free for it now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        known = next((card for card in CARDS.values() if card.name in name), None)
        if known is None:
            return Device(name, "cuda", free)
        return dataclasses.replace(known, name=name, memory_bytes=free, is_here=True)
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit is not None:  # of a container
        free = min(free, limit - (used or 0))
    return Device("this machine", "cpu", free // num_processes)


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, or another word."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
