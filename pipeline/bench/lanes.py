"""What `bench gpu` compares, as data: a lane is a name and flags of training; the axes change one thing each."""

import dataclasses
from dataclasses import dataclass

PLAIN = "plain loop"


@dataclass(frozen=True)
class Lane:
    """A way to execute the step."""

    name: str
    flags: tuple[str, ...] = ()  # of train_lora.py


def _lane(name: str, *more: str, compiled: bool = False, graphs: bool = False) -> Lane:
    """One of the trainer's own; what it is without is said too, whatever is chosen where nobody asks."""
    return Lane(name, ("--compile" if compiled else "--no-compile", "--cuda_graphs", "on" if graphs else "off", *more))


LANES = {
    lane.name: lane
    for lane in (
        _lane("eager"),
        _lane("compiled", compiled=True),
        _lane("graphs", graphs=True),
        _lane("compiled, graphs", compiled=True, graphs=True),
        _lane("nf4", "--base_quantization", "nf4"),
        _lane("int8", "--base_quantization", "int8"),
        _lane("fp8", "--base_quantization", "fp8"),
        _lane("streamed", "--offload_base", "--gradient_checkpointing"),
        Lane(PLAIN),  # diffusers' pieces, as its scripts put them together: no options of ours
    )
}
QUICK = ("eager", PLAIN, "compiled", "graphs", "compiled, graphs")
SMALL = ("nf4", "int8", "fp8", "streamed")  # for small cards
RANKS = (4, 64, 128)


@dataclass(frozen=True)
class Case:
    """One line of the table: a lane, with at most one thing changed."""

    lane: Lane
    batch: int = 1
    rank: int = 16
    changed: str = ""
    switches: tuple[str, ...] = ()

    @property
    def about(self) -> dict[str, str]:
        """What tells it from the others."""
        return {"lane": self.lane.name, "batch": str(self.batch), "rank": str(self.rank), "changed": self.changed}

    @property
    def flags(self) -> list[str]:
        """The flags of train_lora.py that make it so."""
        return [
            *self.lane.flags,
            "--train_batch_size",
            str(self.batch),
            "--rank",
            str(self.rank),
            *self.switches,
        ]


def cases_of(lanes: tuple[str, ...], batches: tuple[int, ...], *, axes: bool) -> list[Case]:
    """What is measured of one model, what is most wanted first.

    Each lane at the smallest batch; the first lane at the others; then, with `axes`, rank, checkpointing and kernels
    that need not repeat.
    """
    first = Case(LANES[lanes[0]], batches[0])
    found = [Case(LANES[name], batches[0]) for name in lanes]
    found += [dataclasses.replace(first, batch=batch) for batch in batches[1:]]
    if axes:
        found += [dataclasses.replace(first, rank=rank) for rank in RANKS]
        checkpointed = "--gradient_checkpointing"
        found.append(dataclasses.replace(first, changed="checkpointing", switches=(checkpointed,)))
        found.append(dataclasses.replace(first, changed="not deterministic", switches=("--no-deterministic",)))
    return found


def at_batch(lanes: tuple[str, ...], batch: int) -> list[Case]:
    """The lanes after the first one at another batch."""
    return [Case(LANES[name], batch) for name in lanes[1:]]
