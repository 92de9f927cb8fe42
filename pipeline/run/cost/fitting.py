"""What fits: the micro-batch of --train_batch_size auto, and what to change where a run does not fit."""

import dataclasses
import math
from collections.abc import Callable, Iterator

from pipeline.cards import Device
from pipeline.geometry import Size
from pipeline.run.cost.memory import Memory, binary
from pipeline.run.cost.step_on_meta import StepShape

MemoryOf = Callable[[StepShape], Memory]
SMALLER = (0.75, 0.5)  # of the resolution, which are tried where a run does not fit


def largest_fitting(memory_of: MemoryOf, shape: StepShape, device: Device) -> StepShape | None:
    """How --train_batch_size auto cuts the examples of a step: into as few equal micro-batches as fit.

    Activations are kept if one example fits so, else recomputed. None where not one example fits.
    """
    kept, recomputed = (dataclasses.replace(shape, checkpointing=value) for value in (shape.checkpointing, True))
    return _largest(memory_of, kept, device) or _largest(memory_of, recomputed, device)


def _largest(memory_of: MemoryOf, shape: StepShape, device: Device) -> StepShape | None:
    whole, one = (dataclasses.replace(shape, batch_size=size) for size in (shape.batch_size, 1))
    if memory_of(whole).fits(device):
        return whole
    if not memory_of(one).fits(device):  # counting takes its time: nothing between needs it then
        return None
    between = (dataclasses.replace(shape, batch_size=size) for size in divisors(shape.batch_size)[1:])
    return next(found for found in between if found == one or memory_of(found).fits(device))


def refusal(memory_of: MemoryOf, shape: StepShape, device: Device, multiple: int, *, spares_base: bool = False) -> str:
    """What is said of a step that has no room, with what would; sides of pictures divide by `multiple`.

    `spares_base`: whether the base is in few bits or streamed already.
    """
    memory, ways = memory_of(shape), list(alternatives(memory_of, shape, device, multiple))
    small = "Not even one recomputed example at half the side would fit."
    least = f"It would fit with {', or '.join(ways)}." if ways else small
    less = " --base_quantization and --offload_base leave less of the base there."
    less = "" if spares_base or device.kind == "cpu" else less
    return (
        f"This run takes about {binary(memory.total)}, and {device.name} has {binary(device.memory_bytes)}: "
        f"{memory.text(shape)}. {least}{less}"
    )


def alternatives(memory_of: MemoryOf, shape: StepShape, device: Device, multiple: int) -> Iterator[str]:
    """Flags with which a step would fit, the least change first."""
    recomputed = dataclasses.replace(shape, checkpointing=True)
    ways = [_cut(found, shape) for way in (shape, recomputed) if (found := _largest(memory_of, way, device))]
    yield from dict.fromkeys(ways)
    for share in SMALLER:
        side = round(share * math.sqrt(shape.size.area)) // multiple * multiple
        if not side:
            continue
        smaller = dataclasses.replace(shape, size=Size.square(side))
        # one change where that is enough; where nothing is enough by itself, all together
        fits = memory_of(smaller).fits(device)
        found = smaller if fits else None if ways else largest_fitting(memory_of, smaller, device)
        if found is not None:
            yield " and ".join(filter(None, [_cut(found, shape), f"--resolution {side}"]))
            return


def _cut(found: StepShape, shape: StepShape) -> str:
    """The flags that show as many examples in each step, fewer at once or recomputed."""
    flags = ["--gradient_checkpointing"] if found.checkpointing and not shape.checkpointing else []
    if found.batch_size < shape.batch_size:
        times = shape.batch_size // found.batch_size
        flags.append(f"--train_batch_size {found.batch_size} (and {times} times the --gradient_accumulation_steps)")
    return " and ".join(flags)


def divisors(number: int) -> list[int]:
    """All whole numbers that divide a number, the largest first."""
    return [part for part in range(number, 0, -1) if number % part == 0]
