"""Where weights lie in memory: on a CPU it decides the last bits of what is computed with them.

A product with a single row (the summary of one prompt, the time of one picture) starts its sums where the weights are
aligned. Those of a file are where the length of its header and the loader put them, which is not the same in every
process, so equal runs would not be.
"""

import ctypes
import itertools
import mmap
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

BYTES = 64  # that torch aligns its own memory to
WORTH_FORGETTING = 16 * 2**20  # bytes of weights; finding out where files are mapped costs some hundredths of a second


def align(models: Iterable[nn.Module]) -> None:
    """Move the weights of a model to memory of their own if some on a CPU are not aligned.

    All of them: one that stayed in the mapped file would keep every page of it in memory, beside the copies.
    """
    for model in models:
        values = itertools.chain(model.parameters(), model.buffers())
        on_cpu = [value for value in values if value.device.type == "cpu"]
        if any(value.data_ptr() % BYTES for value in on_cpu):
            files = _mapped_files() if sum(value.nbytes for value in on_cpu) >= WORTH_FORGETTING else []
            for value in on_cpu:
                before = value.data
                value.data = before.clone()
                _forget(before, files)


def _mapped_files() -> list[range]:
    """Where files are mapped that this process has not written to, on Linux: what is forgotten there comes back."""
    found: list[range] = []
    try:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        words = line.split()
        if not words[0].endswith(":"):  # the first line of a mapping: its place, and what is mapped there
            begin, end = (int(place, 16) for place in words[0].split("-"))
            mapping = range(begin, end)
            if len(words) > 5 and words[5].startswith("/"):
                found.append(mapping)
        elif words[0] in ("Anonymous:", "Swap:") and words[1] != "0" and mapping in found[-1:]:
            found.pop()
    return found


def _forget(tensor: Tensor, files: list[range]) -> None:
    """Let go of the pages of a tensor in one of these files, all but those it shares with its neighbours.

    Such a file is mapped as a whole until its last weight is copied: without this, both would be in memory by then.
    """
    begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if begin < end and any(begin in file and end - 1 in file for file in files):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)
