"""What computes: a device with its room and its rates, and the cards that a plan can be made for."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """A device with the room it has and the rates it is made for."""

    name: str
    kind: str  # 'cpu' or 'cuda'
    memory_bytes: int  # that a run can have
    half_flops: float | None = None  # a second, dense, in bf16 with float32 sums; None: not known
    full_flops: float | None = None  # the same in float32, without TF32
    is_here: bool = True


def _card(name: str, gib: float, half: float, full: float) -> Device:
    """A card by its maker's figures: GiB, a few percent not for programs, dense TFLOP/s in bf16 and float32."""
    room = int(gib * GIB * 0.97)
    return Device(name, "cuda", room, half * 1e12, full * 1e12, is_here=False)


# NVIDIA's data sheets and architecture white papers: Hopper H100 and H200, Ada AD102, Ampere GA100 and GA102. GeForce
# cards sum half-precision products into float32 at half their rate, and that is the rate here.
CARDS = {
    "h200": _card("H200", 140.4, 989, 67),
    "h100": _card("H100", 79.6, 989, 67),
    "a100": _card("A100", 79.3, 312, 19.5),
    "a100-40": _card("A100 (40 GB)", 39.6, 312, 19.5),
    "l40s": _card("L40S", 44.7, 362, 91.6),
    "a10": _card("A10", 22.5, 125, 31.2),
    "rtx5090": _card("RTX 5090", 32, 209.5, 104.8),
    "rtx4090": _card("RTX 4090", 24, 165.2, 82.6),
    "rtx4070": _card("RTX 4070", 12, 58.3, 29.1),
    "rtx3090": _card("RTX 3090", 24, 71, 35.6),
    "rtx3080": _card("RTX 3080", 10, 59.5, 29.8),
    "rtx3060": _card("RTX 3060", 12, 25.4, 12.7),
}


def spelled(name: str) -> str:
    """The name of a card however it is written, as in CARDS: 'RTX 4090' is rtx4090."""
    return "".join(name.lower().replace("_", "").split())


def problems(name: str | None, *, dry_run: bool) -> list[str]:
    """What is wrong with --for NAME, one sentence each."""
    if name is None:
        return []
    known = [] if spelled(name) in CARDS else [f"--for {name}: no card is known so; known are {', '.join(CARDS)}."]
    return known if dry_run else [*known, "--for plans for a card that is not here; give --dry_run with it."]
