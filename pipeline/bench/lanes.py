"""What `bench gpu` compares, as data: a lane is a name and options of training; the axes change one thing each."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.config import KINDS

OFF = {"compile": "off", "cuda_graphs": "off"}  # what is chosen by itself where no lane asks for it
PLAIN = "plain loop"


@dataclass(frozen=True)
class Lane:
    """A way to execute the step."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)  # of train_lora.py, by name
    from_files: bool = False  # the base changes while it is read, so its weights are written first

    @property
    def unknown(self) -> list[str]:
        """Options that this version does not have."""
        return sorted(name for name in self.options if name not in KINDS)


LANES = {
    lane.name: lane
    for lane in (
        Lane("eager"),
        Lane("compiled", {"compile": "on"}),
        Lane("graphs", {"cuda_graphs": "on"}),
        Lane("compiled, graphs", {"compile": "on", "cuda_graphs": "on"}),
        Lane("nf4", {"quantize_base": "nf4"}, from_files=True),
        Lane("int8", {"quantize_base": "int8"}, from_files=True),
        Lane("fp8", {"quantize_base": "fp8"}, from_files=True),
        Lane("streamed", {"stream_base": "on"}),
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
        options = {name: value for name, value in OFF.items() if name in KINDS} | dict(self.lane.options)
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [*words, "--train_batch_size", str(self.batch), "--rank", str(self.rank), *self.switches]


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
