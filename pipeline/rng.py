"""Every random number of a run, as a pure function of (seed, epoch, example id, purpose).

Randomness belongs to the example, never to the process or to the position in a batch. That makes
resuming, accumulation, loader workers and the number of processes exact by construction: no
generator state is ever saved, because none exists between two calls.
"""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor


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


def order(seed: int, epoch: int, num_examples: int) -> list[int]:
    """The order in which one epoch visits the examples."""
    permutation: list[int] = torch.randperm(num_examples, generator=generator_for(seed, epoch, "", "order")).tolist()
    return permutation
