"""Ten steps under torch's profiler, as a trace and a table of what they spend most on."""

import dataclasses
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline import shipped
from pipeline.bench import gpu, made_up, results
from pipeline.bench.published import MODELS
from pipeline.bench.results import Found, Row
from pipeline.bench.watching import Watched
from pipeline.console import quiet_libraries, tell
from pipeline.errors import ConfigError
from pipeline.run import build
from pipeline.timer import PhaseTimer
from pipeline.training.loop import train
from pipeline.training.signals import StopSignal

WARM_UP, STEPS, MAX_ROWS = 3, 10, 15
STARTER_SIZE = 64  # pixels


def profile(model: str | None, to: Path, command: str, flags: list[str]) -> Found:
    """Profile the training of a published model, of a model folder or, with None, of the starter base.

    The trace is written to the folder `to`; chrome://tracing and https://ui.perfetto.dev show it. Raises ConfigError
    for a model that is neither.
    """
    name, size = model or "starter", STARTER_SIZE
    setting = {"model": name, "steps": str(STEPS), **({"flags": " ".join(flags)} if flags else {})}
    found = results.started("profile", command, gpu.device().type, setting, Path(name).name)
    with quiet_libraries(), tempfile.TemporaryDirectory() as place:
        folder, text, made = Path(place), None, model in MODELS
        if model in MODELS:
            published = MODELS[model]
            made_up.write_model(published, folder / "model", None, toy=False)
            size, text = published.size, published.text
        else:
            source = shipped.BASE if model is None else Path(model)
            if not (source / "model_index.json").is_file():
                raise ConfigError(f"--model {model} is neither a model folder nor one of {', '.join(MODELS)}.")
            (folder / "model").symlink_to(source.resolve())
            if model is not None:
                native = made_up.family_of(folder / "model", made=False).native_size
                size = native.width
        profiler = _profiled(folder, size, text, flags, made=made)
    to.mkdir(parents=True, exist_ok=True)
    named = re.sub(r"[^\w.-]+", "-", Path(name).name)
    trace = to / f"profile-{named}.trace.json.gz"
    profiler.export_chrome_trace(str(trace))
    tell(f"Trace {trace}")
    return found.with_rows(rows_of(profiler))


def _profiled(folder: Path, size: int, text: made_up.Shapes | None, flags: list[str], *, made: bool) -> Any:
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    profiler = torch.profiler.profile(activities=kinds)
    begin: dict[int, Callable[[], Any]] = {WARM_UP: profiler.start, WARM_UP + STEPS: profiler.stop}
    words = ["--train_batch_size", "1", "--max_train_steps", str(WARM_UP + STEPS + 1), *flags]
    with made_up.prepared(folder, size, text, words, made=made) as context:
        models = build.load_models(context)
        task = build.build_task(context, models, build.build_state(context, models))
        told = Watched(**vars(task.schedule), watch=lambda step: begin.get(step, lambda: None)())
        with StopSignal(watch_parent=False) as stop:
            train(
                context.engine,
                dataclasses.replace(task, schedule=told),
                None,
                first_step=0,
                stop=stop,
                timer=PhaseTimer(),
            )
    return profiler


def rows_of(profiler: Any) -> list[Row]:
    """The ops that spend most, by their own time: on the GPU, where there is one."""
    where = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    averages = sorted(profiler.key_averages(), key=lambda event: getattr(event, where), reverse=True)
    total = sum(getattr(event, where) for event in averages) or 1.0
    return [
        Row(
            {"op": event.key[:80]},
            {
                "ms_a_step": (getattr(event, where) / STEPS / 1e3,),
                "share": (getattr(event, where) / total,),
                "calls_a_step": (event.count / STEPS,),
            },
        )
        for event in averages[:MAX_ROWS]
    ]
