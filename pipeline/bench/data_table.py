"""What datasets cost, as a page."""

import datetime
import platform
from importlib.metadata import version

from pipeline.bench.data import BATCH, LATENT, NUM_STEPS, SIDE, Part


def page(found: dict[int, dict[str, Part]]) -> str:
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
"""


def _cell(part: Part) -> str:
    return f"{part.seconds:.2f} s, {max(0.0, part.megabytes):.0f} MB"
