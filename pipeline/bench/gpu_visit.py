"""Everything that is worth measuring while a GPU is there for some minutes: python -m pipeline.bench.gpu_visit.

    python -m pipeline.bench.gpu_visit --minutes 14 --to FOLDER [--starter FOLDER] [--toy]

Each part is a process of its own with a clock of its own, and leaves in FOLDER what it found so far, what it said
(<part>.log) and how it ended (visit.json, after each part). A part that fails leaves its traceback, and the next one
runs; a part whose time is over is stopped, and one that the visit has no time for says so. No network is used.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cyclopts

from pipeline import atomic, records
from pipeline.bench import lanes, results
from pipeline.bench.published import MODELS
from pipeline.console import clock, say
from pipeline.errors import EXIT_DONE, EXIT_USER

LEAST_SECONDS = 20.0  # with which no part is begun
GRACE_SECONDS = 5.0  # between asking a part to stop and stopping it
NO_TIME = "no time was left"
SLOWEST = "the slowest"  # of the models measured so far, for the profile


@dataclass(frozen=True)
class Part:
    """A command with its share of the visit."""

    name: str
    minutes: float  # at most; what earlier parts leave over is there for later ones
    command: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """How a part ended."""

    name: str
    command: tuple[str, ...]
    ended: str  # done, or why not
    seconds: float
    said_last: str = ""  # of one that failed: the end of its log


@dataclass(frozen=True)
class Visit:
    """What visit.json holds."""

    minutes: float
    parts: tuple[Ended, ...]


def parts_of(to: Path, starter: Path | None, *, toy: bool) -> list[Part]:
    """The parts in their order; a toy visit does the same with miniatures."""
    python, here = sys.executable, Path(__file__).parents[2]

    def bench(*words: str, steps: int = 30) -> tuple[str, ...]:
        more = ("--toy", "--steps", "2") if toy else ("--steps", str(steps))
        return (python, "-m", "pipeline", "bench", *words, "--lanes_only", *more, "--to", str(to))

    def each(name: str, *values: object) -> list[str]:
        return [str(word) for value in values for word in (f"--{name}", value)]

    def batches(*sizes: int) -> list[str]:
        return each("batch", *sizes[: 1 if toy else None])

    quick, small = each("lane", *lanes.QUICK), each("lane", *lanes.SMALL)
    tests = ["-q", "-m", "gpu and not slow", *(["--collect-only"] if toy else ["-n", "4"]), "tests/gpu"]
    profile = (python, "-m", "pipeline", "bench", "profile", *([] if toy else each("model", SLOWEST)), "--to", str(to))
    build = (python, "-m", "pipeline.starter.build", "--work", str(starter), "--device", "cpu" if toy else "cuda")
    flux = () if toy else ("--blocks", "12")
    return [
        *([Part("starter", 4, build)] if starter is not None else []),
        *([Part("tests", 3, (python, "-m", "pytest", *tests))] if (here / "tests" / "gpu").is_dir() else []),
        Part("sd15", 2.5, bench("gpu", *each("model", "sd15"), *quick, *batches(1, 32))),
        Part("sdxl", 2, bench("gpu", *each("model", "sdxl"), *quick, *batches(1, 8))),
        Part("sd35", 1.5, bench("gpu", *each("model", "sd35_medium"), *quick, *batches(1, 8))),
        Part("flux", 1.5, bench("gpu", *each("model", "flux_dev"), *quick, *batches(1, 2), *flux, steps=10)),
        Part("small-cards", 2, bench("gpu", *each("model", "sdxl"), *small, *batches(1), steps=10)),
        Part("profile", 1, profile),
    ]


def visit(parts: list[Part], minutes: float, to: Path) -> list[Ended]:
    """Run the parts one after another, and keep after each how all ended so far."""
    to.mkdir(parents=True, exist_ok=True)
    until, found = time.monotonic() + 60 * minutes, list[Ended]()
    for ended in _each(parts, until, to):
        found.append(ended)
        kept = records.to_json(Visit(minutes, tuple(found)))
        atomic.write_text(to / "visit.json", json.dumps(kept, indent=1) + "\n")
        say(f"{ended.name}: {ended.ended} ({clock(ended.seconds)})")
    return found


def _each(parts: list[Part], until: float, to: Path) -> Iterator[Ended]:
    spare = 0.0  # seconds that earlier parts left over
    for part in parts:
        left = until - time.monotonic()
        given = min(left, 60 * part.minutes + spare)
        if given < min(LEAST_SECONDS, 60 * part.minutes):
            yield Ended(part.name, part.command, NO_TIME, 0.0)
            continue
        ended = run(part, given, to)
        spare = max(0.0, given - ended.seconds)
        yield ended


def run(part: Part, seconds: float, to: Path) -> Ended:
    """One part in a process group of its own, stopped with all that it started when its time is over."""
    log, started = to / f"{part.name}.log", time.monotonic()
    command = tuple(slowest(to) if word == SLOWEST else word for word in part.command)
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[2],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
        )
        try:
            code, ended = process.wait(seconds), "done"
        except subprocess.TimeoutExpired:
            code, ended = -1, f"stopped after {clock(seconds)}: its time was over"
            _stop(process)
    if code > 0 or (code < 0 and ended == "done"):
        ended = f"failed with {code}"
    said = "" if ended == "done" else log.read_text(encoding="utf-8", errors="replace")[-4000:]
    return Ended(part.name, command, ended, round(time.monotonic() - started, 1), said)


def slowest(to: Path) -> str:
    """The model that made the least of the device, as far as the visit measured; the first one where nothing was."""
    titles = {model.title: name for name, model in MODELS.items()}
    shares: dict[str, float] = {}
    for found in results.read_all(to, "gpu-*.json"):
        for row in found.rows if found.bench == "gpu" else ():
            if "mfu" in row.found and row.about["lane"] != lanes.PLAIN:
                name = titles[row.about["model"]]
                shares[name] = max(shares.get(name, 0.0), results.median(row.found["mfu"]))
    return min(shares, key=lambda name: shares[name], default=next(iter(MODELS)))


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask the group to stop, then stop it."""
    for number, patience in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _environment() -> Mapping[str, str]:
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
    return {**os.environ, **offline, "PYTHONUNBUFFERED": "1"}


def main(*, minutes: float, to: Path, starter: Path | None = None, toy: bool = False) -> int:
    """Measure what there is time for.

    Parameters
    ----------
    minutes
        How long the machine is there.
    to
        Folder for what is found.
    starter
        Folder of an unfinished `make starter` to go on with first.
    toy
        Miniatures, on whatever device there is: to see that every part runs.
    """
    if minutes <= 0:
        say(f"--minutes {minutes:g} must be above 0.")
        return EXIT_USER
    ended = visit(parts_of(to.resolve(), starter, toy=toy), minutes, to.resolve())
    failed = [part for part in ended if part.ended != "done"]
    say(f"{len(ended) - len(failed)} of {len(ended)} parts done; {to}/visit.json says what became of the others")
    return EXIT_DONE


if __name__ == "__main__":
    app = cyclopts.App(name="gpu_visit", default_parameter=cyclopts.Parameter(name_transform=str, negative=()))
    app.default(main)
    sys.exit(app(result_action="return_value"))
