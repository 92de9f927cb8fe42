"""This trainer against the plain loop, on one CPU thread: same weights, data and random numbers, A B A B.

CPU seconds of whole processes are compared, for clocks on shared machines lie. A short and a long run of
each give the steady step as their difference, and what remains is the start, in which ours encodes.
"""

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline import shipped
from pipeline.bench import setting
from pipeline.errors import ConfigError
from pipeline.training import tracking

SHORT, LONG = 12, 60  # steps
NUM_EQUAL, TOLERANCE = 3, 1e-5  # steps whose losses must agree; later Adam magnifies what rounding left


@dataclass(frozen=True)
class Ran:
    """One process: what it cost, and the losses of its steps."""

    seconds: float  # of CPU
    peak_bytes: int
    losses: list[float]


@dataclass(frozen=True)
class Measured:
    """One program: medians over the rounds, with the lowest and the highest."""

    step: tuple[float, float, float]  # CPU seconds of one step in the long run
    start: tuple[float, float, float]  # of everything else in a run of the short length
    whole: tuple[float, float, float]  # of a run of LONG steps
    peak_bytes: float


@dataclass(frozen=True)
class Result:
    """Both programs, and how far apart their losses are."""

    rounds: int
    plain: Measured
    ours: Measured
    distance: float  # the largest difference of two losses in the first steps
    drift: float  # and in all


def compare(rounds: int) -> Result:
    """Run both programs in turn. Raises ConfigError for no rounds, RuntimeError if a program fails."""
    if rounds < 1:
        raise ConfigError(f"--rounds {rounds} must be at least 1.")
    runs: dict[str, list[Ran]] = {"plain short": [], "ours short": [], "plain long": [], "ours long": []}
    for number in range(rounds):
        for key, ran in _round():
            runs[key].append(ran)
            sys.stderr.write(f"round {number + 1}/{rounds}, {key}: {ran.seconds:.1f} CPU s\n")
    pairs = zip(runs["plain long"][0].losses, runs["ours long"][0].losses, strict=True)
    differences = [abs(plain - ours) for plain, ours in pairs]
    distance, drift = max(differences[:NUM_EQUAL]), max(differences)
    if distance > TOLERANCE:
        raise RuntimeError(f"The losses differ by {distance:.1e}: the two programs do not do the same work.")
    plain, ours = (_measured(runs[f"{name} short"], runs[f"{name} long"]) for name in ("plain", "ours"))
    return Result(rounds, plain, ours, distance, drift)


def _round() -> Iterator[tuple[str, Ran]]:
    for length, num_steps in (("short", SHORT), ("long", LONG)):
        with tempfile.TemporaryDirectory() as folder:
            yield f"plain {length}", run_plain(Path(folder), num_steps)
        with tempfile.TemporaryDirectory() as folder:
            yield f"ours {length}", run_ours(Path(folder), num_steps)


def run_plain(folder: Path, num_steps: int) -> Ran:
    """The plain loop in a process of its own."""
    seconds, peak = _spawn([sys.executable, "-m", "pipeline.bench.reference", str(folder), str(num_steps)], folder)
    found = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
    return Ran(seconds, peak, found["losses"])


def run_ours(folder: Path, num_steps: int) -> Ran:
    """train_lora.py in a process of its own, with an empty cache, to the verified adapter and the page."""
    out = folder / "out"
    flags = {
        "pretrained_model_name_or_path": str(shipped.BASE), "train_data_dir": str(shipped.TRAIN),
        "validation_split": "0", "rank": str(setting.RANK), "train_batch_size": str(setting.BATCH),
        "lora_layers": "attention",
        "learning_rate": str(setting.RATE), "lr_scheduler": "constant", "seed": str(setting.SEED),
        "max_train_steps": str(num_steps), "output_dir": str(out), "cache_dir": str(folder / "cache"),
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    program = "import sys, pipeline.run.main; sys.exit(pipeline.run.main.run_and_report(sys.argv[1:]))"
    seconds, peak = _spawn([sys.executable, "-c", program, *words, "--center_crop"], folder)
    return Ran(seconds, peak, [row.loss for row in tracking.read(out)])


def _spawn(words: list[str], folder: Path) -> tuple[float, int]:
    """CPU seconds and peak memory in bytes of a process on one thread.

    The system counts the memory of the process that starts it too, so the peak is at least what this one takes.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    pid = os.posix_spawn(words[0], words, {**os.environ, **threads}, file_actions=actions)
    _, code, used = os.wait4(pid, 0)
    os.close(log)
    if code:
        raise RuntimeError(f"{' '.join(words[:3])} failed:\n{(folder / 'log').read_text(encoding='utf-8')[-2000:]}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def _measured(short: list[Ran], long: list[Ran]) -> Measured:
    steps = [(b.seconds - a.seconds) / (LONG - SHORT) for a, b in zip(short, long, strict=True)]
    starts = [ran.seconds - SHORT * step for ran, step in zip(short, steps, strict=True)]
    peak = statistics.median(ran.peak_bytes for ran in long)
    return Measured(_three(steps), _three(starts), _three([ran.seconds for ran in long]), peak)


def _three(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)
