"""Examples rendered by all processors at once: pictures as bytes, and what is said of them."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Said = TypeVar("Said")
CHUNK = 250


def rendered(
    example: Callable[[int], tuple[Image.Image, Said]], first: int, last: int
) -> tuple[NDArray[np.uint8], list[Said]]:
    """Examples `first` to `last` (not included): pictures [n, h, w, 3] of one size, and what goes with each.

    `example` maps an index to a picture and what is said of it, and depends on the index alone; it must be a
    module's function (or a partial of one), for other processes call it. They only render, so forking is safe
    even where a device is in use.
    """
    starts = range(first, last, CHUNK)
    chunks = [(example, start, min(start + CHUNK, last)) for start in starts]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("fork")) as processes:
        parts = list(processes.map(_chunk, chunks))
    return np.concatenate([pictures for pictures, _ in parts]), [entry for _, said in parts for entry in said]


def _chunk(
    job: tuple[Callable[[int], tuple[Image.Image, Said]], int, int],
) -> tuple[NDArray[np.uint8], list[Said]]:
    example, first, last = job
    rows = [example(index) for index in range(first, last)]
    return np.stack([np.asarray(picture) for picture, _ in rows]), [said for _, said in rows]


def to_values(pictures: Tensor, device: torch.device) -> Tensor:
    """Bytes [b, h, w, 3] as the models take them: [b, 3, h, w] in [-1, 1] on the device."""
    return pictures.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div(127.5).sub(1.0).contiguous()
