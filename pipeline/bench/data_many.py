"""What very many examples cost, simulated: rows of no pictures opened and divided, an order of places alone.

Each measurement is a process of its own: python -m pipeline.bench.data_many PART PATH NUMBER.
"""

import contextlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from pipeline.bench.data import BATCH, SIDE, Part, run
from pipeline.console import say

ROWS, PLACES = 1_000_000, 100_000_000
STEPS = 1000  # of the order, in the middle of a pass
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of what getrusage says of memory
OF_ROWS, OF_PLACES = ("open", "split", "buckets"), ("begin", "middle")


def simulate(rows: int, places: int) -> dict[str, Part]:
    """Measure a kept listing of so many rows, and an order of so many places."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "examples.arrow"
        run("data_many", "write", path, rows)
        found = {part: run("data_many", part, path, rows) for part in OF_ROWS}
        return found | {part: run("data_many", part, path, places) for part in OF_PLACES}


def main(part: str, path: Path, number: int) -> None:
    """Measure one part and print it."""
    if part == "write":
        found = Part(0, 0, write(path, number))
    elif part in OF_ROWS:
        found = of_rows(part, path)
    else:
        found = of_places(number, *((0, 1) if part == "begin" else (number // BATCH // 2, STEPS)))
    say(json.dumps(vars(found)))


def measured(work: Callable[[], int]) -> Part:
    """What a piece of work costs this process: its memory where it is highest."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux forgets what was highest before
    before, started = psutil.Process().memory_info().rss, time.process_time()
    count = work()
    return Part(time.process_time() - started, (highest() - before) / 1e6, float(count))


def highest() -> int:
    """The most bytes this process took. What getrusage says of it begins, on Linux, with what its parent took."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii", errors="replace").splitlines() if status.exists() else []
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return kilobytes[0] * 1024 if kilobytes else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def write(path: Path, number: int) -> int:
    """Rows as a folder's listing keeps them, of pictures that there are not."""
    from pipeline.data import mapped
    from pipeline.data.manifest import Example
    from pipeline.data.rows import FileSource
    from pipeline.geometry import Size
    from pipeline.hashing import digest

    def rows() -> Iterator[Example]:
        for index in range(number):
            name, found = f"{index:07d}.jpg", digest(b"%d" % index)
            size = Size.square(SIDE) if index % 3 else Size(SIDE * 5 // 4, SIDE * 3 // 4)
            caption = f"{index} things of kind {index % 97}"
            source, sketch = FileSource(f"/pictures/{name}"), (3 * found)[:80]
            yield Example(found, found, name, source, (caption,), size, options(), sketch=sketch)

    mapped.write(path, rows(), {})
    return number


def options() -> Any:
    """Of the data, all as it is when nothing is said."""
    from pipeline.data.options import DataOptions

    return DataOptions()


def of_rows(part: str, path: Path) -> Part:
    """One thing that a start does with a kept listing; those before it are done and not measured."""
    import pyarrow.ipc  # noqa: F401  an import costs what it costs however many rows there are

    from pipeline.bench.data import buckets_of
    from pipeline.data import mapped
    from pipeline.data.manifest import Manifest
    from pipeline.data.split import split

    def opened() -> int:
        kept.append(Manifest("", mapped.Mapped(mapped.MappedTable.opened(path), options())))
        return len(kept[0].fingerprint) and len(kept[0].examples)

    def divided() -> int:
        kept[0], held_out = split(kept[0], None)
        return len(held_out.examples) if held_out else 0

    def shown() -> int:
        return sum(len(bucket.entries) for bucket in buckets_of(kept[0], options()))

    kept: list[Manifest] = []
    works = dict(zip(OF_ROWS, (opened, divided, shown), strict=True))
    for earlier in OF_ROWS[: OF_ROWS.index(part)]:
        works[earlier]()
    return measured(works[part])


def of_places(places: int, first: int, steps: int) -> Part:
    """So many steps of a new order of so many places."""
    from pipeline.data.orders import Pass, order_of

    def visit() -> int:
        order = order_of(Pass(0, 0, "", places, BATCH))
        for number in range(first * BATCH, (first + steps) * BATCH):
            order(number)
        return places

    return measured(visit)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
