"""Where weights lie in memory: on a CPU it decides the last bits of what is computed with them.

A product with a single row (the summary of one prompt, the time of one picture) starts its sums where the weights are
aligned. Those of a file are where the length of its header and the loader put them, which is not the same in every
process, so equal runs would not be.
"""

from collections.abc import Iterable

from torch import nn

BYTES = 64  # that torch aligns its own memory to


def align(models: Iterable[nn.Module]) -> None:
    """Move the weights on a CPU that are not aligned to memory of their own."""
    for model in models:
        for weight in model.parameters():
            if weight.device.type == "cpu" and weight.data_ptr() % BYTES:
                weight.data = weight.data.clone()
