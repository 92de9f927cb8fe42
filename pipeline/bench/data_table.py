"""What datasets cost: measured, and as a page of its own."""

from pipeline.bench import data, data_many, results
from pipeline.bench.data import BATCH, LATENT, NUM_STEPS, SIDE, Part
from pipeline.bench.data_many import STEPS
from pipeline.bench.results import Found, Row

SIMULATED = "simulated"
TITLES = {
    "first": "reading a folder, the first time",
    "again": "reading it again",
    "cache": f"keeping latents of {' x '.join(map(str, LATENT))} and embeddings for each",
    "loader": f"{NUM_STEPS} steps of {BATCH} from the loader, start included",
}
TITLES_OF_MANY = {
    "open": "opening the listing, with a hash of every id",
    "split": "choosing what is held out, near copies together",
    "buckets": "dividing the rest into buckets",
    "begin": "the first step of a pass",
    "middle": f"{STEPS:,} steps in the middle of a pass, started there",
}


def measure(command: str, numbers: tuple[int, ...]) -> Found:
    """Measure real datasets of so many pictures, and simulate very large ones; raises as `data.compare` does."""
    found = results.started("data", command, "cpu", {"pictures": f"JPEGs of about {SIDE} x {SIDE}"})
    return found.with_rows(rows_of(data.compare(numbers), data_many.simulate(data_many.ROWS, data_many.PLACES)))


def rows_of(found: dict[int, dict[str, Part]], many: dict[str, Part]) -> list[Row]:
    """Each part of each dataset, and of the simulated ones."""
    parts = [(str(number), part, cost) for number, parts in found.items() for part, cost in parts.items()]
    parts += [(SIMULATED, part, cost) for part, cost in many.items()]
    return [
        Row({"pictures": number, "part": part}, {name: (value,) for name, value in vars(cost).items()})
        for number, part, cost in parts
    ]


def page(found: Found) -> str:
    """docs/benchmarks-data.md: the table, what was measured, and on what."""
    numbers = list(dict.fromkeys(row.about["pictures"] for row in found.rows))
    numbers.remove(SIMULATED)
    costs = {
        number: {row.about["part"]: _part(row) for row in found.rows if row.about["pictures"] == number}
        for number in [*numbers, SIMULATED]
    }
    rows = [
        f"| {title} | {' | '.join(_cell(costs[number][part]) for number in numbers)} |"
        for part, title in TITLES.items()
    ]
    files = ", ".join(f"{costs[number]['cache'].count:.0f}" for number in numbers)
    pace = ", ".join(f"{costs[number]['loader'].count:.0f}" for number in numbers)
    return f"""# What a dataset costs

Made by `make docs` from docs/benchmarks. `{found.command}` measured it on {found.date}:
{found.machine}, {found.system}, torch {found.versions["torch"]}.
Pictures are JPEGs of about {SIDE} x {SIDE} in two shapes, with a `metadata.jsonl`.
Every cell is a process of its own: seconds of CPU without imports, and by how many megabytes it grew.

| pictures | {" | ".join(f"{int(number):,}" for number in numbers)} |
|---|{"---|" * len(numbers)}
{chr(10).join(rows)}

The cache lies in {files} files. From the cache, with all random numbers drawn, the loader gives {pace} examples a
second of CPU.

{_simulated(costs[SIMULATED])}"""


def _part(row: Row) -> Part:
    return Part(**{name: values[0] for name, values in row.found.items()})


def _simulated(many: dict[str, Part]) -> str:
    """What was measured without pictures."""
    rows = [
        f"| {title} | {many[part].seconds:.3f} s | {_highest(many[part])} |" for part, title in TITLES_OF_MANY.items()
    ]
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
