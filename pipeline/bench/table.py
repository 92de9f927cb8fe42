"""What was measured, as a page."""

import datetime
import platform
from importlib.metadata import version

from pipeline.bench.cpu import LONG, NUM_EQUAL, SHORT, Measured, Result


def page(result: Result) -> str:
    """docs/benchmarks.md: the table, what was compared, and on what."""
    plain, ours = result.plain, result.ours
    rows = [
        _row("one step, in a long run", plain.step, ours.step, 3),
        _row("all but the steps: start, encoding, saving, page", plain.start, ours.start, 1),
        _row(f"a whole run of {LONG} steps", plain.whole, ours.whole, 1),
        f"| peak memory, MB | {plain.peak_bytes / 1e6:.0f} | {ours.peak_bytes / 1e6:.0f} | "
        f"{ours.peak_bytes / plain.peak_bytes:.2f} |",
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "peft", "transformers"))
    return f"""# Benchmarks

`make bench` wrote this page on {datetime.date.today():%Y-%m-%d}: {platform.machine()}, one thread, Python
{platform.python_version()}, {versions}.

## CPU: this trainer against a plain loop of diffusers' pieces

[pipeline/bench/reference.py](../pipeline/bench/reference.py) is the loop people write first, after diffusers' own
script: autoencoder and text encoder in every step, PEFT, AdamW. Both programs train the starter base on the starter
dataset with the same weights, examples, random numbers and options (batch 8, rank 16, float32), in turn,
{result.rounds} rounds of {SHORT} and {LONG} steps each. CPU seconds of whole processes: median [lowest, highest];
last column ours / plain.

| | plain loop | t2i-lora | ratio |
|---|---|---|---|
{chr(10).join(rows)}

Both do the same work: the losses of the first {NUM_EQUAL} steps differ by at most {result.distance:.1e}. Over
{LONG} steps it is {result.drift:.1e}, for Adam's division magnifies roundings.

What the second row holds beside imports and loading: ours encodes every picture and caption once (an empty cache in
every run), writes a checkpoint, reads the adapter back through diffusers, compares it, and makes the page; the plain
loop does none of that and saves nothing. So the plain loop is ahead in the shortest runs, and
t2i-lora from about {_break_even(plain, ours)} on.
"""


def _row(name: str, plain: tuple[float, float, float], ours: tuple[float, float, float], digits: int) -> str:
    cells = [f"{m:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]" for m, low, high in (plain, ours)]
    return f"| {name}, CPU s | {cells[0]} | {cells[1]} | {ours[0] / plain[0]:.2f} |"


def _break_even(plain: Measured, ours: Measured) -> str:
    """The length of run from which ours costs less in all."""
    gained, ahead = plain.step[0] - ours.step[0], ours.start[0] - plain.start[0]
    if ahead <= 0:
        return "the first step"
    return f"{round(ahead / gained)} steps" if gained > 0 else "no length"
