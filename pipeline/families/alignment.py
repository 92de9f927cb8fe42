"""Where weights lie in memory: on a CPU it decides the last bits of what is computed with them.

A product with a single row (the summary of one prompt, the time of one picture) starts its sums where the weights are
aligned. Those of a file are where the length of its header and the loader put them, which is not the same in every
process, so equal runs would not be.
"""

import ctypes
import itertools
import mmap
import sys
from collections.abc import Iterable

from torch import Tensor, nn

BYTES = 64  # that torch aligns its own memory to
MADV_PAGEOUT = 21  # of Linux, since 5.4


def align(models: Iterable[nn.Module]) -> None:
    """Move the weights of a model to memory of their own if some on a CPU are not aligned.

    All of them: one that stayed in the mapped file would keep every page of it in memory, beside the copies.
    """
    for model in models:
        values = itertools.chain(model.parameters(), model.buffers())
        on_cpu = [value for value in values if value.device.type == "cpu"]
        if any(weight.data_ptr() % BYTES for weight in on_cpu):
            for weight in on_cpu:
                before = weight.data
                weight.data = before.clone()
                _page_out(before)


def _page_out(tensor: Tensor) -> None:
    """Tell the system that nobody will read these pages soon; what is in them stays.

    The file of a model is mapped as a whole until its last weight is copied, which would be the peak of a run's memory.
    """
    if sys.platform == "linux":
        begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if begin < end:  # an older system refuses, and that is all
            ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_PAGEOUT)
