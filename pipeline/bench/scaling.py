"""The same training in one process and in several of the launcher: python -m pipeline bench scaling."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline import shipped
from pipeline.bench import results
from pipeline.bench.results import Found, Row
from pipeline.bench.shapes import SHAPES
from pipeline.bench.spawning import spawn
from pipeline.errors import ConfigError

NUM_PROCESSES, STEPS, WARM_UP = (1, 2, 4), 40, 8
TOY_STEPS = 10
LAUNCHER = {
    "compute_environment": "LOCAL_MACHINE",
    "machine_rank": 0,
    "main_process_port": 0,
    "mixed_precision": "no",
    "num_machines": 1,
    "rdzv_backend": "static",
    "same_network": True,
}


def compare(processes: tuple[int, ...], command: str, *, toy: bool) -> Found:
    """Train the starter base, each process with a batch of its own; a toy is a miniature.

    Raises ConfigError for no processes.
    """
    if min(processes, default=0) < 1:
        raise ConfigError("--processes needs at least 1, as in --processes 1 --processes 2.")
    num_cards = count_cards()
    rows: list[Row] = []
    pace_of_one = 0.0
    batch = SHAPES["starter"].batch
    for number in processes:
        if num_cards and number > num_cards:
            rows.append(Row({"processes": str(number)}, {}, note=f"{num_cards} GPU(s) here"))
            continue
        seconds, cpu_seconds, peak = run(number, num_cards, toy=toy)
        pace = number * batch / seconds
        pace_of_one = pace_of_one or pace / number
        crowded = not num_cards and number > (os.cpu_count() or 1)
        found = {"samples_per_s": (pace,), "efficiency": (pace / number / pace_of_one,), "cpu_s": (cpu_seconds,)}
        note = "more processes than cores" if crowded else ""
        rows.append(Row({"processes": str(number)}, {**found, "largest_process_gb": (peak / 1e9,)}, note))
    setting = {"model": "miniature" if toy else "starter", "batch a process": str(batch)}
    name = "scaling-toy" if toy else "scaling"
    return results.started(name, command, "cuda" if num_cards else "cpu", setting).with_rows(rows)


def count_cards() -> int:
    """How many GPUs there are. Another process looks: the memory of this one counts for those that it starts."""
    program = "import torch; print(torch.cuda.device_count())"
    return int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)


def run(number: int, num_cards: int, *, toy: bool) -> tuple[float, float, int]:
    """Seconds of a step as a clock sees it, CPU seconds of the whole run, and the largest process in bytes."""
    with tempfile.TemporaryDirectory() as place:
        folder, model, steps = Path(place), shipped.BASE, STEPS
        if toy:
            model, steps = folder / "model", TOY_STEPS
            spawn([sys.executable, "-m", "pipeline", "miniature", "sd", str(model)], folder)
        settings = {**LAUNCHER, "num_processes": number, "use_cpu": not num_cards}
        settings["distributed_type"] = "MULTI_GPU" if number > 1 else "NO"  # which starts processes, on a CPU too
        (folder / "launcher.yaml").write_text(json.dumps(settings), encoding="utf-8")  # which is YAML too
        launcher = ["-m", "accelerate.commands.launch", "--config_file", str(folder / "launcher.yaml")]
        flags = {
            "pretrained_model_name_or_path": model, "train_data_dir": shipped.TRAIN, "output_dir": folder / "out",
            "cache_dir": folder / "cache", "max_train_steps": steps, "train_batch_size": SHAPES["starter"].batch,
            "validation_split": 0, "num_validation_images": 0,
            "mixed_precision": "bf16" if num_cards else "no",
            **({"resolution": 64, "max_train_samples": 16} if toy else {}),
        }  # fmt: skip
        words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
        command = [sys.executable, *launcher, "--module", "pipeline", "train", *words, "--center_crop"]
        cpu_seconds, peak = spawn(command, folder)
        first = min(WARM_UP, steps // 2)
        lines = (folder / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[first:]
        seconds = statistics.median(float(json.loads(line)["seconds"]) for line in lines)
    return seconds, cpu_seconds, peak
