"""What datasets cost, as a page."""

import datetime
import platform
from importlib.metadata import version

from pipeline.bench.data import BATCH, LATENT, NUM_STEPS, SIDE, Part
from pipeline.bench.data_many import STEPS


def page(found: dict[int, dict[str, Part]], many: dict[str, Part]) -> str:
    """docs/benchmarks-data.md: the table, what was measured, and on what."""
    numbers = list(found)
    titles = {
        "first": "reading a folder, the first time",
        "again": "reading it again",
        "cache": f"keeping latents of {' x '.join(map(str, LATENT))} and embeddings for each",
        "loader": f"{NUM_STEPS} steps of {BATCH} from the loader, start included",
    }
    rows = [
        f"| {title} | {' | '.join(_cell(found[number][part]) for number in numbers)} |"
        for part, title in titles.items()
    ]
    files = ", ".join(f"{found[number]['cache'].count:.0f}" for number in numbers)
    pace = ", ".join(f"{found[number]['loader'].count:.0f}" for number in numbers)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "pillow", "safetensors"))
    return f"""# What a dataset costs

`python -m pipeline bench data` wrote this page on {datetime.date.today():%Y-%m-%d}: {platform.machine()}, Python
{platform.python_version()}, {versions}. Pictures are JPEGs of about {SIDE} x {SIDE} in two shapes, with a
`metadata.jsonl`. Every cell is a process of its own: seconds of CPU without imports, and by how many megabytes it grew.

| pictures | {" | ".join(f"{number:,}" for number in numbers)} |
|---|{"---|" * len(numbers)}
{chr(10).join(rows)}

The cache lies in {files} files. From the cache, with all random numbers drawn, the loader gives {pace} examples a
second of CPU.

{_simulated(many)}"""


def _simulated(many: dict[str, Part]) -> str:
    """What was measured without pictures."""
    titles = {
        "open": "opening the listing, with a hash of every id",
        "split": "choosing what is held out, near copies together",
        "buckets": "dividing the rest into buckets",
        "begin": "the first step of a pass",
        "middle": f"{STEPS:,} steps in the middle of a pass, started there",
    }
    rows = [f"| {title} | {many[part].seconds:.3f} s | {_highest(many[part])} |" for part, title in titles.items()]
    return f"""## Very many, simulated

There are no pictures here. The first three rows are those of a start with {many["open"].count:,.0f} examples whose
folder has not changed: rows with invented hashes, names, captions and sketches were written straight into the file in
which the listing of a folder is kept. Looking whether the files of the folder have changed is not in it. The last two
rows are the order of {many["begin"].count:,.0f} places in steps of {BATCH} and nothing else: no manifest, no pictures.
Seconds of CPU, without imports, and by how much the process grew where it was largest; pages of the mapped file count.
What a row needs of those above it is done before and not counted.

| | CPU | memory |
|---|---|---|
{chr(10).join(rows)}
"""


def _highest(part: Part) -> str:
    return f"{max(0.0, part.megabytes):.1f} MB"


def _cell(part: Part) -> str:
    return f"{part.seconds:.2f} s, {max(0.0, part.megabytes):.0f} MB"
