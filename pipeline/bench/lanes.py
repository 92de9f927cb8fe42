"""What `bench gpu` compares, as data: a lane is a name and flags of training; the axes change one thing each."""

import dataclasses
from dataclasses import dataclass

from pipeline.argv import bare
from pipeline.config import KINDS

OFF = ("--no-compile", "--cuda_graphs", "off")  # whatever is chosen where nobody asks: what a lane says comes later
PLAIN = "plain loop"


@dataclass(frozen=True)
class Lane:
    """A way to execute the step."""

    name: str
    flags: tuple[str, ...] = ()  # of train_lora.py

    @property
    def unknown(self) -> list[str]:
        """Options that this version does not have."""
        return [word for word in self.flags if word.startswith("--") and bare(word) not in KINDS]


LANES = {
    lane.name: lane
    for lane in (
        Lane("eager"),
        Lane("compiled", ("--compile",)),
        Lane("graphs", ("--cuda_graphs", "on")),
        Lane("compiled, graphs", ("--compile", "--cuda_graphs", "on")),
        Lane("nf4", ("--base_quantization", "nf4")),
        Lane("int8", ("--base_quantization", "int8")),
        Lane("fp8", ("--base_quantization", "fp8")),
        Lane("streamed", ("--offload_base", "--gradient_checkpointing")),
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
        asked = {bare(word) for word in self.lane.flags}
        compiled, graphs = OFF[:1], OFF[1:]
        words = [word for group in (compiled, graphs) if bare(group[0]) not in asked for word in group]
        return [
            *words,
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
