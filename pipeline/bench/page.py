"""docs/benchmarks.md from what several machines found: one table for each bench, each row with its machine."""

from dataclasses import dataclass

from pipeline.bench import lanes, results
from pipeline.bench.published import MODELS
from pipeline.bench.results import NOT_MEASURED, Found, Row
from pipeline.bench.shapes import SHAPES

INTRODUCTION = """# Benchmarks

Made by `make docs` from the JSON files in [benchmarks](benchmarks), one for each bench and machine, which
`python -m pipeline bench ... --to docs/benchmarks` writes. Brackets are the lowest and the highest of the rounds. What
a dataset costs is on [a page of its own](benchmarks-data.md).
"""


@dataclass(frozen=True)
class Section:
    """One bench on the page."""

    bench: str
    title: str
    text: str
    about: tuple[str, ...]
    columns: dict[str, tuple[str, int | None]]  # of what is found: its title, and how many digits
    command: str  # that measures it
    wanted: tuple[Row, ...] = ()  # rows that stand there without numbers until some machine has them


SHAPES_TOLD = "\n".join(
    f"- `{shape.name}`: {shape.title}; {shape.resolution} px, batch {shape.batch}, runs of {shape.lengths[0]} and "
    f"{shape.lengths[1]} steps"
    for shape in SHAPES.values()
    if shape.name != "toy"
)
SECTIONS = (
    Section(
        "cpu",
        "CPU: this trainer against a plain loop",
        f"""[pipeline/bench/reference.py](../pipeline/bench/reference.py) is the loop people write first, after
diffusers' `train_text_to_image_lora.py`: pictures decoded and encoded in every step, captions too, PEFT, AdamW.
`--script` takes that script itself; which of both was compared stands under the table. Both programs train with the
same weights, pictures, random numbers and options (rank 16, float32, one thread), in turn. CPU seconds of whole
processes with kept bytecode; the last column is ours / plain, pair by pair. Losses are equal as far as the last rows
say: Adam's division magnifies roundings later.

{SHAPES_TOLD}

The heads of `small` have 8 channels, for which torch's attention is slow on a CPU. Ours pads them, and takes 0.69 of
the time for a step that it takes without; models that are published have wider heads, where nothing is padded.

All but the steps is a whole run less its steps. In it ours imports, loads, encodes every picture and caption once,
writes a checkpoint, reads the adapter back through diffusers, compares it, and makes the page; the plain loop imports
and loads, and saves nothing. With a warm cache the encoding was done by an earlier run.""",
        ("shape", "what"),
        {"plain": ("plain loop", None), "ours": ("t2i-lora", None), "ours_to_plain": ("ratio", 2)},
        "python -m pipeline bench cpu --to docs/benchmarks",
        tuple(
            Row({"shape": name, "what": what}, {})
            for name in ("starter", "short", "small", "sd15")
            for what in ("one step, CPU s", "all but the steps, CPU s", "the same with a warm cache, CPU s")
        ),
    ),
    Section(
        "gpu",
        "GPU: steps at the published sizes",
        """Real configurations with random weights made on the device, bfloat16, made-up latents and embeddings in the
cache: the trainer's own loop, loader and step, AdamW, adapters on the attention layers. The plain loop is what
diffusers' scripts do with the same cached batch (PEFT, autocast, AdamW, two reads of the device in each step). MFU is
the work of a LoRA step (forward, gradients of inputs and of the adapter; nothing recomputed counts) over the peak of
a matrix product measured in the same run. Host is CPU time of the main thread, in which waiting for the device
counts; launches and idle share come from one profiled step. The first step counts from the beginning of loading, with
no compiled kernels; again: with those of the first time.""",
        ("model", "lane", "batch", "rank", "changed"),
        {
            "samples_per_s": ("samples/s", 2),
            "mfu": ("MFU", 3),
            "step_ms": ("step, ms", 1),
            "host_ms": ("host, ms", 1),
            "launches": ("launches", 0),
            "idle_share": ("idle", 2),
            "allocated_gib": ("allocated, GiB", 1),
            "reserved_gib": ("reserved, GiB", 1),
            "first_step_s": ("first step, s", 1),
            "first_step_again_s": ("again, s", 1),
        },
        "python -m pipeline bench gpu --to docs/benchmarks",
        tuple(
            Row({"model": model.title, "lane": lane, "batch": "1", "rank": "16", "changed": ""}, {})
            for model in MODELS.values()
            for lane in (*lanes.QUICK, *lanes.SMALL)
        ),
    ),
    Section(
        "scaling",
        "Several processes",
        """The starter base through the launcher, each process with a batch of its own. Samples a second are of the
clock, so they say something only where nothing else runs; efficiency is of what one process does; CPU seconds are of
the whole run.""",
        ("processes",),
        {
            "samples_per_s": ("samples/s", 1),
            "efficiency": ("efficiency", 2),
            "cpu_s": ("CPU s", 1),
            "largest_process_gb": ("largest process, GB", 2),
        },
        "python -m pipeline bench scaling --to docs/benchmarks",
        tuple(Row({"processes": number}, {}) for number in ("1", "2", "4")),
    ),
    Section(
        "profile",
        "What ten steps spend most on",
        "",
        ("op",),
        {"ms_a_step": ("ms a step", 2), "share": ("share", 3), "calls_a_step": ("calls a step", 1)},
        "python -m pipeline bench profile --to docs/benchmarks",
    ),
)


def page(found: list[Found]) -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(section_text(section, found) for section in SECTIONS)])


def section_text(section: Section, everything: list[Found]) -> str:
    """One bench: text, table, and on what it was measured."""
    found = [one for one in everything if one.bench == section.bench]
    lines = [f"## {section.title}", "", *([section.text, ""] if section.text else []), f"`{section.command}`", ""]
    rows = [(one.machine, row) for one in found for row in one.rows]
    known = {tuple(row.about.items()) for _, row in rows}
    rows += [("", row) for row in section.wanted if tuple(row.about.items()) not in known]
    if not rows:
        return "\n".join([*lines, f"{NOT_MEASURED.capitalize()} anywhere yet.", ""])
    titles = [*section.about, *(title for title, _ in section.columns.values()), "on"]
    lines += [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    lines += [_line(section, machine, row) for machine, row in rows]
    notes = list(dict.fromkeys(f"{_of(row)}: {row.note}" for _, row in rows if row.note))
    lines += ["", *(f"- {note}" for note in notes)] if notes else []
    lines += ["", *(_measured_on(one) for one in found)] if found else []
    return "\n".join([*lines, ""])


def _line(section: Section, machine: str, row: Row) -> str:
    cells = [row.about.get(name, "") for name in section.about]
    if row.found:
        cells += [_cell(row.found.get(name), digits) for name, (_, digits) in section.columns.items()]
    else:
        cells += [NOT_MEASURED, *[""] * (len(section.columns) - 1)]
    return f"| {' | '.join([*cells, machine])} |"


def _cell(values: tuple[float, ...] | None, digits: int | None) -> str:
    """A number too small for its digits is told in powers of ten."""
    if values and 0 < results.median(values) < 10.0 ** -(digits or 3):
        return f"{results.median(values):.1e}"
    return results.cell(values, digits) if values else "-"


def _of(row: Row) -> str:
    return ", ".join(value for value in row.about.values() if value)


def _measured_on(found: Found) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    setting = ", ".join(f"{name} {value}" for name, value in found.setting.items())
    return f"- {found.date}, `{found.command}`: {found.machine} ({found.system}); {versions}; {setting}."
