"""What the verb `bench` does: measure, keep the numbers after every row, show them."""

import shlex
import sys
from pathlib import Path

from pipeline.bench import results
from pipeline.bench.options import BenchOptions, Kind
from pipeline.bench.results import Found
from pipeline.console import say


def measure(kind: Kind, options: BenchOptions) -> None:
    """Measure and show; with --to the numbers are kept in a file, from the first row on. Raises as each bench does."""
    command = shlex.join(["python", "-m", "pipeline", *sys.argv[1:]])

    def keep(found: Found) -> None:
        if options.to is not None:
            results.write(found, options.to)

    found = _measured(kind, options, command, keep)
    results.show(found)
    if options.to is not None:
        say(f"Kept  {results.write(found, options.to)}")


def _measured(kind: Kind, options: BenchOptions, command: str, keep: results.Keep) -> Found:
    """Each bench is imported when it is asked for: those that start processes must stay small."""
    if kind == "cpu":
        from pipeline.bench import cpu

        return cpu.compare(options.shape, options.rounds, command, keep, options.script)
    if kind == "data":
        from pipeline.bench import data_table

        return data_table.measure(command, options.pictures)
    if kind == "scaling":
        from pipeline.bench import scaling

        return scaling.compare(options.processes, command, toy=options.toy)
    if kind == "profile":
        from pipeline.bench import profiling

        model = options.model[0] if options.model else None
        return profiling.profile(model, options.to or Path(), command, shlex.split(options.flags))
    from pipeline.bench import gpu

    return gpu.compare(gpu.asked(options), command, keep)
