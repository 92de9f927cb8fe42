"""What the tests share: a miniature model, a small dataset, and runs in processes forked from one warmed parent."""

import tests.shapes  # noqa: F401  # isort: skip  # before anything of `pipeline` is imported

import gc
import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from pipeline.families.meta import layer_shapes
from tests.offline import guard
from tests.running import Ended, Running, World
from tests.shared import Shared

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


def pytest_configure() -> None:
    torch.set_num_threads(1)
    # Of every process that is started, too: several threads wait for each other in loops, twice as long on busy cores,
    # and sums of another number of them are rounded in another order.
    os.environ["OMP_NUM_THREADS"] = "1"
    guard()


@pytest.fixture(scope="session", autouse=True)
def _no_traces_at_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What runs without --cache_dir keep goes here, not into the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))
        yield


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what was imported stays, and need not be looked through again and again


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Folders that are made once a session; not to be changed."""
    return Shared.of(tmp_path_factory)


@pytest.fixture(scope="session")
def miniature_of(shared: Shared) -> Callable[..., Path]:
    """A random-weight model of a family, by its name; not to be changed."""

    def found(family: str, prediction: str | None = None) -> Path:
        from pipeline.families import miniature

        name = f"{family}-{prediction}" if prediction else family
        return shared(name, lambda folder: miniature.write(family, folder, prediction=prediction))

    return found


@pytest.fixture(scope="session")
def miniature(miniature_of: Callable[..., Path]) -> Path:
    """A random-weight Stable Diffusion that predicts noise."""
    return miniature_of("sd")


@pytest.fixture(scope="session")
def miniature_v(miniature_of: Callable[..., Path]) -> Path:
    """A random-weight Stable Diffusion that predicts v."""
    return miniature_of("sd", "v_prediction")


@pytest.fixture(scope="module")
def family(miniature: Path):
    """The first of these, as the pipeline knows it."""
    from pipeline.families import registry

    return registry.detect(miniature)


@pytest.fixture(scope="module")
def layers(family):
    """Its layers, by their names."""

    return layer_shapes(family)


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


# Captions of `make_shapes` in columns, of which now and then one is left out.
COLUMNS = ["--caption_template", "a picture[ with number {number}][ in the {place}]", "--column_dropout", "0.3"]


def make_shapes(folder: Path, number: int = 18, *, in_columns: bool = False) -> Path:
    """Captioned pictures of six shapes, upright, wide and square, each with something that tells it apart."""
    folder.mkdir(parents=True)
    rows = []
    chance = np.random.default_rng(0)
    for index in range(number):
        width, height = ((80, 64), (64, 64), (48, 80), (120, 60), (60, 120), (96, 90))[index % 6]
        pixels = np.full((height, width, 3), chance.integers(0, 256, 3), dtype=np.uint8)
        pixels[10:30, 5 : 15 + index] = chance.integers(0, 256, 3)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
        if in_columns:
            row = {"file_name": f"{index:02d}.png", "number": index, "place": ("park", "sea", "town")[index % 3]}
            rows.append(json.dumps(row) + "\n")
        else:
            (folder / f"{index:02d}.txt").write_text(f"a picture with number {index}", encoding="utf-8")
    if in_columns:
        (folder / "metadata.jsonl").write_text("".join(rows), encoding="utf-8")
    return folder


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
def world(tmp_path: Path) -> Callable[..., list[Ended]]:
    """Run train_lora.main(argv) to its end in several processes at once."""
    counter = iter(range(1000))

    def run(num_processes: int, *argv: object) -> list[Ended]:
        log = tmp_path / f"world-{next(counter)}.txt"
        return World(num_processes, [str(word) for word in argv], log).wait()

    return run


@pytest.fixture(scope="session")
def finished_run(shared: Shared, miniature: Path) -> Callable[..., Path]:
    """The output folder, of this name, of a run of `small` with more flags; made once a session, not to be changed."""

    def found(*flags: str, name: str = "out", prepared: Callable[[], None] | None = None) -> Path:
        key = "run-" + hashlib.sha256(json.dumps([name, *flags]).encode()).hexdigest()[:16]

        def make(folder: Path) -> None:
            basis = small_flags(miniature, make_colours(folder / "colours"), shared("cache", Path.mkdir))
            basis = [word for pair in in_pairs(basis) if pair[0] not in flags for word in pair]
            words = [*basis, *flags, "--output_dir", str(folder / name)]
            ended = Running(words, folder / "log.txt", prepared=prepared).wait()
            assert ended.code == 0, ended.output

        return shared(key, make) / name

    return found


@pytest.fixture
def cache(shared: Shared) -> Path:
    """What runs of `small` encode is encoded once a session; files where that is in question have their own."""
    return shared("cache", Path.mkdir)


@pytest.fixture
def small(miniature: Path, colours: Path, cache: Path) -> list[str]:
    """The flags of a small run; add --output_dir."""
    return small_flags(miniature, colours, cache)


def small_flags(model: Path, data: Path, cache: Path) -> list[str]:
    """A short run of few layers: the forty that are adapted by default are a third of it."""
    return [
        "--pretrained_model_name_or_path", str(model), "--train_data_dir", str(data), "--cache_dir", str(cache),
        "--resolution", "64", "--rank", "4", "--max_train_steps", "12", "--train_batch_size", "2",
        "--learning_rate", "1e-3", "--num_inference_steps", "2", "--num_validation_images", "1",
        "--lora_layers", "to_v",
    ]  # fmt: skip


def replaced(flags: list[str], **values: object) -> list[str]:
    """The same flags with some values changed."""
    changed = list(flags)
    for name, value in values.items():
        changed[changed.index(f"--{name}") + 1] = str(value)
    return changed


def in_pairs(flags: list[str]) -> list[tuple[str, str]]:
    """Flags that all have one value, with it."""
    return list(zip(flags[::2], flags[1::2], strict=True))


def dedupe(flags: list) -> list:
    """Flags given twice: the last one counts."""
    values, words = {}, [str(word) for word in flags]
    while words:
        name = words.pop(0)
        values[name] = [] if not words or words[0].startswith("--") else [words.pop(0)]
    return [word for name, rest in values.items() for word in (name, *rest)]


def prepared(flags: list[str], folder: Path):
    """The context of a command line."""
    from pipeline import config
    from pipeline.run import preflight
    from pipeline.run.context import prepare

    command = config.parse(flags)
    data = preflight.preflight(command.run, folder, command.yielding)
    return prepare(command.run, data, folder, yielding=command.yielding, notes=command.notes)


def attach(model, options, targets, seed: int = 0) -> None:
    """Put an adapter on one model."""
    from pipeline.adapter import lora
    from pipeline.adapter.layers import target_modules

    lora.attach(model, options, target_modules(model, options, targets), seed)


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
