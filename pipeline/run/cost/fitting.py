"""What fits: the micro-batch of --train_batch_size auto, and what to change where a run does not fit."""

import dataclasses
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


def refusal(memory_of: MemoryOf, shape: StepShape, device: Device, multiple: int) -> str:
    """What is said of a step that has no room, with what would; sides of pictures divide by `multiple`."""
    memory, ways = memory_of(shape), list(alternatives(memory_of, shape, device, multiple))
    least = f"It would fit with {', or '.join(ways)}." if ways else "One example at half the size would not fit either."
    return (
        f"This run takes about {binary(memory.total)}, and {device.name} has {binary(device.memory_bytes)}: "
        f"{memory.text(shape)}. {least}"
    )


def alternatives(memory_of: MemoryOf, shape: StepShape, device: Device, multiple: int) -> Iterator[str]:
    """Flags with which a step would fit, the least change first."""
    found = _largest(memory_of, shape, device)
    if found is not None:
        yield _cut(found, shape)
    recomputed = dataclasses.replace(shape, checkpointing=True)
    found = None if shape.checkpointing else _largest(memory_of, recomputed, device)
    if found is not None:
        yield f"--gradient_checkpointing{' and ' * (found.batch_size < shape.batch_size)}{_cut(found, shape)}"
    for share in SMALLER:
        side = round(share * min(shape.size.width, shape.size.height)) // multiple * multiple
        if side and memory_of(dataclasses.replace(shape, size=Size.square(side))).fits(device):
            yield f"--resolution {side}"
            return


def _cut(found: StepShape, shape: StepShape) -> str:
    """The flags that show as many examples in each step, fewer at once."""
    if found.batch_size == shape.batch_size:
        return ""
    times = shape.batch_size // found.batch_size
    return f"--train_batch_size {found.batch_size} (and {times} times the --gradient_accumulation_steps)"


def divisors(number: int) -> list[int]:
    """All whole numbers that divide a number, the largest first."""
    return [part for part in range(number, 0, -1) if number % part == 0]
