"""What the tests share: a miniature model, a small dataset, and runs in processes forked from one warmed parent."""

import json
import multiprocessing
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from tests.offline import guard

COLOURS = {
    "red": (220, 30, 30),
    "green": (20, 180, 40),
    "blue": (20, 60, 220),
    "yellow": (240, 220, 30),
    "black": (10, 10, 10),
    "white": (250, 250, 250),
    "purple": (130, 40, 170),
    "teal": (20, 170, 170),
}
SPAWNER = multiprocessing.get_context("forkserver")
SPAWNER.set_forkserver_preload([] if torch.cuda.is_available() else ["tests.warm"])  # forks cannot share CUDA


def pytest_configure() -> None:
    torch.set_num_threads(1)
    guard()


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight Stable Diffusion that predicts noise."""
    return _miniature(tmp_path_factory.mktemp("models") / "epsilon", "epsilon")


@pytest.fixture(scope="session")
def miniature_v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight Stable Diffusion that predicts v."""
    return _miniature(tmp_path_factory.mktemp("models") / "v", "v_prediction")


def _miniature(folder: Path, prediction: str) -> Path:
    from pipeline.families import miniature

    miniature.write("sd", folder, prediction=prediction)
    return folder


@pytest.fixture(scope="module")
def family(miniature: Path):
    """The first of these, as the pipeline knows it."""
    from pipeline.families import registry

    return registry.detect(miniature)


@pytest.fixture(scope="module")
def layers(family):
    """Its layers, by their names."""
    from pipeline.adapter import files

    return files.shapes_of(family)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Eight captioned pictures, 80 x 64 pixels, each with something in it that crop and flip change."""
    return make_colours(tmp_path / "colours")


def make_colours(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rows = []
    for number, (name, colour) in enumerate(COLOURS.items()):
        pixels = np.full((64, 80, 3), colour, dtype=np.uint8)
        pixels[10 : 20 + number, 5 : 30 + number] = 255 - pixels[0, 0]
        Image.fromarray(pixels).save(folder / f"{name}.png")
        rows.append(json.dumps({"file_name": f"{name}.png", "text": f"a {name} square"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Ended:
    """How a process ended and what it said."""

    code: int
    output: str


class Running:
    """A run in a process of its own."""

    def __init__(self, argv: list[str], log: Path) -> None:
        self._log = log
        self._process = SPAWNER.Process(target=_child, args=(argv, str(log), os.getcwd()))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 240) -> Ended:
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"still running after {seconds} s:\n{self._log.read_text()}"
        return Ended(self._process.exitcode, self._log.read_text(encoding="utf-8"))

    def wait_for_step(self, folder: Path, step: int, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            path = folder / "metrics.jsonl"
            if path.is_file() and len(path.read_text(encoding="utf-8").splitlines()) >= step:
                return
            assert self._process.is_alive(), self._log.read_text(encoding="utf-8")
            time.sleep(0.01)
        raise AssertionError(f"step {step} not reached in {seconds} s")


def _child(argv: list[str], log: str, folder: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(folder)
    sys.argv = ["train_lora.py", *argv]
    import train_lora

    code = train_lora.main(argv)
    sys.stdout.flush()
    os._exit(code)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Running]:
    """Start train_lora.main(argv) in a process of its own."""
    counter = iter(range(1000))

    def starter(*argv: object) -> Running:
        return Running([str(word) for word in argv], tmp_path / f"log-{next(counter)}.txt")

    return starter


@pytest.fixture
def trainer(start: Callable[..., Running]) -> Callable[..., Ended]:
    """Run train_lora.main(argv) to its end."""
    return lambda *argv: start(*argv).wait()


@pytest.fixture
def small(miniature: Path, colours: Path, tmp_path: Path) -> list[str]:
    """The flags of a small run; add --output_dir."""
    return small_flags(miniature, colours, tmp_path / "cache")


def small_flags(model: Path, data: Path, cache: Path) -> list[str]:
    return [
        "--pretrained_model_name_or_path", str(model), "--train_data_dir", str(data), "--cache_dir", str(cache),
        "--resolution", "64", "--rank", "4", "--max_train_steps", "12", "--train_batch_size", "2",
        "--learning_rate", "1e-3", "--num_inference_steps", "2",
    ]  # fmt: skip


def replaced(flags: list[str], **values: object) -> list[str]:
    """The same flags with some values changed."""
    changed = list(flags)
    for name, value in values.items():
        changed[changed.index(f"--{name}") + 1] = str(value)
    return changed


def dedupe(flags: list) -> list:
    """Flags given twice: the last one counts."""
    values, words = {}, [str(word) for word in flags]
    while words:
        name = words.pop(0)
        values[name] = [] if not words or words[0].startswith("--") else [words.pop(0)]
    return [word for name, rest in values.items() for word in (name, *rest)]


def prepared(flags: list[str], folder: Path):
    """The setting of a command line."""
    from pipeline import config, material
    from pipeline.setting import prepare

    run = config.parse(flags).run
    return prepare(run, material.look(run, folder), folder)


def attach(model, options, targets, seed: int = 0) -> None:
    """Put an adapter on one model."""
    from pipeline.adapter import lora
    from pipeline.adapter.layers import sites

    lora.attach(model, options, sites(model, options, targets), seed)


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def status(folder: Path) -> dict:
    return json.loads((folder / "status.json").read_text(encoding="utf-8"))


def next_argv(folder: Path) -> list[str]:
    """The flags of the command that status.json says to go on with."""
    words = shlex.split(status(folder)["next_command"])
    return words[words.index("train_lora.py") + 1 :]


def snippet_of(card: str) -> str:
    """The code that a model card offers."""
    (found,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return found


def largest_difference(first: Image.Image, second: Image.Image) -> int:
    """The largest difference of two pictures in any pixel and channel, of 255."""
    return max(high for _, high in ImageChops.difference(first.convert("RGB"), second.convert("RGB")).getextrema())
