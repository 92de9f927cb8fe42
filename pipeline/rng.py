"""Every random number of a run, as a pure function of (seed, epoch, example id, purpose).

Randomness belongs to the example, never to the process or to the position in a batch. That makes
resuming, accumulation, loader workers and the number of processes exact by construction: no
generator state is ever saved, because none exists between two calls.
"""

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

# SplitMix64's constants, as signed 64-bit numbers.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FACTORS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))


@contextlib.contextmanager
def global_state_kept() -> Iterator[None]:
    """Restore the process's own generators afterwards: nothing here reads them, but libraries do."""
    python, numpy = random.getstate(), np.random.get_state()
    has_state: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    devices = [torch.cuda.current_device()] if has_state else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def generator_for(seed: int, epoch: int, example_id: str, purpose: str) -> torch.Generator:
    """A fresh CPU generator that these four values alone decide."""
    return torch.Generator().manual_seed(number_for(seed, epoch, example_id, purpose))


def number_for(seed: int, epoch: int, example_id: str, purpose: str) -> int:
    """The 64 bits, as a signed number, that everything drawn for these four values begins with."""
    key = f"{seed}\n{epoch}\n{example_id}\n{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little", signed=True)


def uniform(seed: int, epoch: int, example_id: str, purpose: str) -> float:
    """One number in [0, 1)."""
    return torch.rand((), generator=generator_for(seed, epoch, example_id, purpose), dtype=torch.float64).item()


def normal(seed: int, epoch: int, example_id: str, purpose: str, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    """Standard normal numbers of the given shape, float32."""
    return torch.randn(shape, generator=generator_for(seed, epoch, example_id, purpose))


def uniforms(seed: int, epoch: int, example_id: str, purpose: str, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    """Numbers in [0, 1) of the given shape, float32."""
    return torch.rand(shape, generator=generator_for(seed, epoch, example_id, purpose))


def integer(seed: int, epoch: int, example_id: str, purpose: str, bound: int) -> int:
    """One integer in [0, bound)."""
    return int(torch.randint(bound, (), generator=generator_for(seed, epoch, example_id, purpose)))


def permutation(seed: int, epoch: int, example_id: str, purpose: str, number: int) -> list[int]:
    """The numbers from 0 up to `number`, in an order of their own."""
    places: list[int] = _permuted(generator_for(seed, epoch, example_id, purpose), number).tolist()
    return places


def order(seed: int, epoch: int, part: str, number: int) -> Int64[np.ndarray, " n"]:
    """The order in which one epoch visits a part of the dataset; the whole has no name."""
    return _permuted(generator_for(seed, epoch, part, "order"), number)


def _permuted(generator: torch.Generator, number: int) -> Int64[np.ndarray, " n"]:
    places: Int64[np.ndarray, " n"] = torch.randperm(number, generator=generator).numpy()
    return places


def hashed_uniforms(seeds: Int[Tensor, " b"], count: int) -> Float[Tensor, "b n"]:
    """`count` numbers in [0, 1) for each seed, float32: SplitMix64 (Steele et al. 2014), number i of it from i alone.

    Integer arithmetic on whole tensors, so the numbers are the same on every device and under compilation.
    """
    counter = torch.arange(1, count + 1, device=seeds.device)  # [n]
    return (_mixed(_mixed(seeds)[:, None] + counter * _GOLDEN) >> 40 & 0xFFFFFF).float() / (1 << 24)


def _mixed(z: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """SplitMix64's finalizer. Products wrap; shifts of negative numbers have to be masked to be logical."""
    z = (z ^ (z >> 30 & (1 << 34) - 1)) * _FACTORS[0]
    z = (z ^ (z >> 27 & (1 << 37) - 1)) * _FACTORS[1]
    return z ^ (z >> 31 & (1 << 33) - 1)
