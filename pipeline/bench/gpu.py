"""The step at the published sizes, on whatever device there is: python -m pipeline bench gpu."""

import contextlib
import dataclasses
import gc
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.bench import flops, lanes, made_up, plain, results
from pipeline.bench.lanes import Case
from pipeline.bench.made_up import TOY_SIZE
from pipeline.bench.options import BenchOptions
from pipeline.bench.published import MODELS, Published
from pipeline.bench.results import Found, Keep, Row
from pipeline.bench.watching import Watch, Watched
from pipeline.conditioning import stack
from pipeline.console import quiet_libraries, tell
from pipeline.errors import ConfigError
from pipeline.geometry import Size, whole
from pipeline.run import build
from pipeline.timer import PhaseTimer
from pipeline.training.loop import train
from pipeline.training.signals import StopSignal

INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be measured."""

    models: tuple[str, ...] = tuple(MODELS)
    lanes: tuple[str, ...] = lanes.QUICK
    batches: tuple[int, ...] | None = None  # None: the model's own
    axes: bool = True  # rank, checkpointing, determinism too
    steps: int = 30  # that are measured, after a third as many
    num_blocks: int | None = None  # of transformers; their full number is extrapolated
    toy: bool = False  # miniatures of the same families, to see that everything runs

    def problems(self) -> list[str]:
        """What is wrong with it, one sentence each."""
        found = [f"--model {name} is none of {', '.join(MODELS)}." for name in self.models if name not in MODELS]
        known = ", ".join(repr(name) for name in lanes.LANES)
        found += [f"--lane {name!r} is none of {known}." for name in self.lanes if name not in lanes.LANES]
        numbers = {"steps": self.steps, "blocks": self.num_blocks or 1, "batch": min(self.batches or (1,))}
        return found + [f"--{name} {value} must be at least 1." for name, value in numbers.items() if value < 1]


def asked(options: BenchOptions) -> Wanted:
    """What the command line asks for."""
    return Wanted(
        models=options.model or tuple(MODELS),
        lanes=options.lane or lanes.QUICK,
        batches=options.batch or None,
        axes=not options.lanes_only,
        steps=options.steps,
        num_blocks=options.blocks,
        toy=options.toy,
    )


@dataclass(frozen=True)
class Bench:
    """One model in its folder, and what counts its work."""

    model: Published
    folder: Path
    wanted: Wanted
    peak: float  # FLOP/s of the matmul
    work: float  # FLOP of an example's step
    whole_work: float  # of the model with all of its blocks

    @property
    def size(self) -> int:
        """The side of its pictures."""
        return TOY_SIZE if self.wanted.toy else self.model.size


def device() -> torch.device:
    """What is computed on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compare(wanted: Wanted, command: str, keep: Keep) -> Found:
    """Measure each lane of each model; `keep` is called after each row. Raises ConfigError for what is not there."""
    if problems := wanted.problems():
        raise ConfigError("\n".join(problems))
    dtype = torch.bfloat16 if device().type == "cuda" else torch.float32
    peak = flops.matmul_peak(device(), dtype)
    setting = {
        "precision": str(dtype).removeprefix("torch."),
        "matmul peak, TFLOP/s": f"{peak / 1e12:.3g}",
        "steps": str(wanted.steps),
    }
    name = "gpu-toy" if wanted.toy else "gpu"
    lanes_told = () if wanted.lanes == lanes.QUICK else wanted.lanes
    found = results.started(name, command, device().type, setting, part="-".join([*wanted.models, *lanes_told]))
    rows: list[Row] = []
    for model in wanted.models:
        for row in measured(MODELS[model], wanted, peak):
            rows.append(row)
            keep(found.with_rows(rows))
    return found.with_rows(rows)


def measured(model: Published, wanted: Wanted, peak: float) -> Iterator[Row]:
    """The rows of one model: every lane at the first batch, the first lane at all, every lane at the best."""
    with quiet_libraries(), tempfile.TemporaryDirectory() as folder:
        try:
            bench = started(model, Path(folder), wanted, peak)
        except Exception as error:  # the other models are measured all the same
            tell(traceback.format_exc())
            yield Row({"model": model.title}, {}, note=_reason(error))
            return
        batches = wanted.batches or model.batches
        best, fastest = batches[0], 0.0
        for case in lanes.cases_of(wanted.lanes, batches, axes=wanted.axes):
            row = row_of(bench, case)
            pace = row.found.get("samples_per_s", (0.0,))[0]
            if case == Case(lanes.LANES[wanted.lanes[0]], case.batch) and pace > fastest:
                best, fastest = case.batch, pace
            yield row
        if best != batches[0]:
            for case in lanes.at_batch(wanted.lanes, best):
                yield row_of(bench, case)


def started(model: Published, folder: Path, wanted: Wanted, peak: float) -> Bench:
    """A model in its folder, its work counted."""
    blocks = None if model.num_blocks == 0 or wanted.toy else wanted.num_blocks
    made_up.write_model(model, folder / "model", blocks, toy=wanted.toy)
    size = Size.square(TOY_SIZE if wanted.toy else model.size)
    work = whole_work = flops.of_step(folder / "model", size)
    if blocks is not None:
        made_up.write_model(model, folder / "whole", None, toy=False)
        whole_work = flops.of_step(folder / "whole", size)
    return Bench(model, folder, wanted, peak, work, whole_work)


def row_of(bench: Bench, case: Case) -> Row:
    """One line of the table; what cannot be measured says why."""
    title = f"{bench.model.title}, toy" if bench.wanted.toy else bench.model.title
    about, notes = {"model": title, **case.about}, []
    tell(f"{title}: {', '.join(value for value in case.about.values() if value)}")
    numbers: dict[str, float] = {}
    try:
        numbers = cost_of(bench, case)
        if bench.whole_work > bench.work:
            notes.append(f"{bench.wanted.num_blocks} of {bench.model.num_blocks} blocks; samples/s of all extrapolated")
    except Exception as error:  # an out-of-memory error among them; the other lanes are measured all the same
        if not isinstance(error, torch.OutOfMemoryError):
            tell(traceback.format_exc())
        notes.append(_reason(error))
    finally:
        _forget()
    return Row(about, {name: (value,) for name, value in numbers.items()}, note="; ".join(notes))


def cost_of(bench: Bench, case: Case) -> dict[str, float]:
    """What a case costs. The first step is timed twice, cold and with what the first time left behind."""
    take = plainly if case.lane.name == lanes.PLAIN else by_product
    is_compiled = "--compile" in case.lane.flags
    with _empty_kernel_cache():
        found = take(bench, case)
        if is_compiled and case.batch == (bench.wanted.batches or bench.model.batches)[0]:
            _forget()
            torch.compiler.reset()
            found["first_step_again_s"] = take(bench, case)["first_step_s"]
    pace = case.batch / found["step_ms"] * 1e3
    found["mfu"] = pace * bench.work / bench.peak
    found["samples_per_s"] = pace * bench.work / bench.whole_work
    return found


def by_product(bench: Bench, case: Case) -> dict[str, float]:
    """The trainer's own loop and step, on its own loader and a made-up cache."""
    wanted = bench.wanted
    watch = Watch(device(), max(2, wanted.steps // 3), wanted.steps)
    flags = [*case.flags, "--max_train_steps", str(watch.num_steps)]
    text = None if wanted.toy else bench.model.text
    with made_up.prepared(bench.folder, bench.size, text, flags, made=not wanted.toy) as context:
        watch.started = time.perf_counter()
        models = build.load_models(context)
        state = build.build_state(context, models)
        task = build.build_task(context, models, state)
        task = dataclasses.replace(task, schedule=Watched(**vars(task.schedule), watch=watch))
        with StopSignal(watch_parent=False) as stop:
            train(context.engine, task, None, first_step=0, stop=stop, timer=PhaseTimer())
        watch(watch.num_steps)
    return watch.found


def plainly(bench: Bench, case: Case) -> dict[str, float]:
    """The loop of diffusers' pieces, on a batch that lies on the device."""
    wanted, where = bench.wanted, device()
    watch = Watch(where, max(2, wanted.steps // 3), wanted.steps)
    family = made_up.family_of(bench.folder / "model", made=not wanted.toy)
    generator = torch.Generator().manual_seed(0)
    shapes = made_up.shapes_of(family) if wanted.toy else bench.model.text
    size = Size.square(bench.size)
    row = made_up.embeddings(shapes, generator) | family.size_states(whole(size))
    dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    latents = torch.randn(case.batch, *family.latent_shape(size), generator=generator).to(where)
    model = getattr(family.load(family.denoiser, dtype=dtype), family.denoiser).to(where)
    conditioning = stack([row] * case.batch).to(where, dtype)
    plain.train(family, model, latents, conditioning, rank=case.rank, watch=watch)
    return watch.found


@contextlib.contextmanager
def _empty_kernel_cache() -> Iterator[None]:
    """Kernels that are compiled meanwhile go to a new folder, so that the first time is the first time."""
    import os

    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get(INDUCTOR)
        os.environ[INDUCTOR] = folder
        try:
            yield
        finally:
            os.environ.pop(INDUCTOR)
            if before is not None:
                os.environ[INDUCTOR] = before


def _forget() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _reason(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]:.120}"
