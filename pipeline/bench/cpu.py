"""This trainer against the plain loop, on one CPU thread: same weights, data and random numbers, A B A B.

CPU seconds of whole processes are compared, for clocks on shared machines lie. A short and a long run of
each give the steady step as their difference, and what remains is everything beside the steps, in which ours encodes;
a second run finds that done.
"""

import functools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.bench import results, spawning
from pipeline.bench.results import Found, Keep, Row
from pipeline.bench.shapes import SHAPES, Shape
from pipeline.console import tell
from pipeline.errors import ConfigError

NUM_EQUAL, TOLERANCE = 3, 1e-5  # steps whose losses must agree; later Adam magnifies what rounding left
STEP, EMPTY, WARM = "one step, CPU s", "all but the steps, CPU s", "the same with a warm cache, CPU s"
TOO_SHORT = "the runs are too short for it: their steps scatter by more"
PEAK, APART, DRIFT = "peak memory, MB", "losses apart, first steps", "losses apart, all steps"


@dataclass(frozen=True)
class Ran:
    """One process: what it cost, and the losses of its steps where they can be compared."""

    seconds: float  # of CPU
    peak_bytes: int
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class Round:
    """Both programs once; ours also with a cache that an earlier run filled."""

    plain_short: Ran
    ours_short: Ran
    ours_warm: Ran  # as long as the short ones
    plain_long: Ran
    ours_long: Ran


@dataclass(frozen=True)
class Programs:
    """How both are started, and where what they share lies."""

    shape: Shape
    base: Path
    pictures: Path
    environment: dict[str, str]
    script: Path | None = None  # diffusers' own; None: the loop that restates it

    def plain(self, folder: Path, num_steps: int) -> Ran:
        """The other program in a process of its own."""
        if self.script is not None:
            seconds, peak = spawning.spawn(self._script(folder, num_steps), folder, self.environment)
            return Ran(seconds, peak)
        words = [sys.executable, "-m", "pipeline.bench.reference", str(folder), self.shape.name, str(num_steps)]
        seconds, peak = spawning.spawn([*words, str(self.base), str(self.pictures)], folder, self.environment)
        found = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
        return Ran(seconds, peak, tuple(found["losses"]))

    def ours(self, folder: Path, num_steps: int, cache: Path) -> Ran:
        """train_lora.py in a process of its own, to the verified adapter and the page."""
        out, shape = folder / "out", self.shape
        flags = {
            "pretrained_model_name_or_path": self.base, "train_data_dir": self.pictures, "validation_split": 0,
            "rank": shape.rank, "train_batch_size": shape.batch, "lora_layers": "attention",
            "resolution": shape.resolution, "learning_rate": shape.rate, "lr_scheduler": "constant", "seed": shape.seed,
            "max_train_steps": num_steps, "output_dir": out, "cache_dir": cache,
        }  # fmt: skip
        words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
        program = "import sys, pipeline.run.main; sys.exit(pipeline.run.main.run_and_report(sys.argv[1:]))"
        command = [sys.executable, "-c", program, *words, "--center_crop"]
        seconds, peak = spawning.spawn(command, folder, self.environment)
        lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return Ran(seconds, peak, tuple(float(json.loads(line)["loss"]) for line in lines))

    def _script(self, folder: Path, num_steps: int) -> list[str]:
        shape = self.shape
        flags = {
            "pretrained_model_name_or_path": self.base, "train_data_dir": self.pictures, "rank": shape.rank,
            "train_batch_size": shape.batch, "resolution": shape.resolution, "learning_rate": shape.rate,
            "lr_scheduler": "constant", "lr_warmup_steps": 0, "seed": shape.seed, "max_train_steps": num_steps,
            "output_dir": folder / "out", "checkpointing_steps": 10**6, "cache_dir": folder / "cache",
        }  # fmt: skip
        words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
        return [sys.executable, str(self.script), *words, "--center_crop"]


def compare(shapes: tuple[str, ...], rounds: int, command: str, keep: Keep, script: Path | None = None) -> Found:
    """Run both programs in turn for each shape; `keep` is called after each round.

    Raises ConfigError for no rounds and no script, RuntimeError if a program fails or does other work.
    """
    if rounds < 1:
        raise ConfigError(f"--rounds {rounds} must be at least 1.")
    if script is not None and not script.is_file():
        raise ConfigError(f"--script {script} is no file; give diffusers' train_text_to_image_lora.py.")
    plain = "diffusers' train_text_to_image_lora.py" if script else "the plain loop"
    setting = {"compared with": plain, "precision": "float32", "threads": "1", "rank": "16"}
    found, rows = results.started("cpu", command, "cpu", setting, "-".join(shapes)), list[Row]()
    with tempfile.TemporaryDirectory() as place:
        for name in shapes:
            shape, folder = SHAPES[name], Path(place) / name
            environment = spawning.with_kept_bytecode(Path(place) / "bytecode")
            base, pictures = written(shape, folder, environment)
            ran: list[Round] = []
            for a_round in run_rounds(Programs(shape, base, pictures, environment, script), rounds):
                ran.append(a_round)
                keep(found.with_rows([*rows, *rows_of(shape, ran)]))
            rows += rows_of(shape, ran)
    return found.with_rows(rows)


def written(shape: Shape, folder: Path, environment: dict[str, str]) -> tuple[Path, Path]:
    """The base and the pictures of a shape, made by another process: what this one takes counts for all it starts."""
    folder.mkdir()
    if shape.base or shape.num_pictures:
        spawning.spawn([sys.executable, "-m", "pipeline.bench.shapes", shape.name, str(folder)], folder, environment)
    return shape.places(folder)


def run_rounds(programs: Programs, rounds: int) -> Iterator[Round]:
    """Every program in turn, after each once for nothing, which leaves compiled Python behind."""
    short, long = programs.shape.lengths

    def run(name: str, work: Callable[[Path], Ran]) -> Ran:
        with tempfile.TemporaryDirectory() as folder:
            ran = work(Path(folder))
        tell(f"{programs.shape.name}, {name}: {ran.seconds:.1f} CPU s")
        return ran

    run("warm-up, plain", lambda folder: programs.plain(folder, 1))
    run("warm-up, ours", lambda folder: programs.ours(folder, 1, folder / "cache"))
    for number in range(1, rounds + 1):
        with tempfile.TemporaryDirectory() as kept:
            again = functools.partial(programs.ours, num_steps=short, cache=Path(kept))
            plain_short = run(f"round {number}, plain", functools.partial(programs.plain, num_steps=short))
            ours_short = run(f"round {number}, ours", again)
            ours_warm = run(f"round {number}, ours again", again)
        plain_long = run(f"round {number}, plain, long", functools.partial(programs.plain, num_steps=long))
        ours_long = run(f"round {number}, ours, long", lambda folder: programs.ours(folder, long, folder / "cache"))
        yield Round(plain_short, ours_short, ours_warm, plain_long, ours_long)


def rows_of(shape: Shape, rounds: list[Round]) -> list[Row]:
    """The numbers of both programs, round by round, and their ratios, pair by pair.

    Raises RuntimeError where losses differ that should be equal.
    """
    short, long = shape.lengths
    about = {"shape": shape.name}
    plain, ours = ([step_of(r, long - short, name) for r in rounds] for name in ("plain", "ours"))
    beside = [r.plain_short.seconds - short * step for r, step in zip(rounds, plain, strict=True)]
    pairs = {
        STEP: (plain, ours),
        EMPTY: (beside, [r.ours_short.seconds - short * step for r, step in zip(rounds, ours, strict=True)]),
        WARM: (beside, [r.ours_warm.seconds - short * step for r, step in zip(rounds, ours, strict=True)]),
        f"a whole run of {long} steps, CPU s": (
            [r.plain_long.seconds for r in rounds],
            [r.ours_long.seconds for r in rounds],
        ),
        PEAK: ([r.plain_long.peak_bytes / 1e6 for r in rounds], [r.ours_long.peak_bytes / 1e6 for r in rounds]),
    }
    return [_row(about, what, *sides) for what, sides in pairs.items()] + _losses(about, rounds[0])


def _row(about: dict[str, str], what: str, plain: list[float], ours: list[float]) -> Row:
    """One number of both and its ratio; nothing where a difference of runs is not even positive."""
    if min(plain + ours) <= 0:
        return Row({**about, "what": what}, {}, note=TOO_SHORT)
    ratios = tuple(b / a for a, b in zip(plain, ours, strict=True))
    return Row({**about, "what": what}, {"plain": tuple(plain), "ours": tuple(ours), "ours_to_plain": ratios})


def step_of(ran: Round, num_steps: int, program: str) -> float:
    """CPU seconds of one step: what the long run took beyond the short one."""
    short, long = (getattr(ran, f"{program}_{length}") for length in ("short", "long"))
    return float(long.seconds - short.seconds) / num_steps


def _losses(about: dict[str, str], ran: Round) -> list[Row]:
    """How far the losses of both are apart; nothing where the other program draws its own numbers."""
    if not ran.plain_long.losses:
        return [Row({**about, "what": APART}, {}, note="the script draws other random numbers")]
    pairs = zip(ran.plain_long.losses, ran.ours_long.losses, strict=True)
    apart = [abs(plain - ours) for plain, ours in pairs]
    distance, drift = max(apart[:NUM_EQUAL]), max(apart)
    if distance > TOLERANCE:
        raise RuntimeError(f"The losses differ by {distance:.1e}: the two programs do not do the same work.")
    return [Row({**about, "what": what}, {"ours": (value,)}) for what, value in ((APART, distance), (DRIFT, drift))]
