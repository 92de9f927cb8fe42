"""Commands in processes forked from one warmed parent: what would cost seconds of imports starts in milliseconds."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
SPAWNER = multiprocessing.get_context("forkserver")
SPAWNER.set_forkserver_preload([] if torch.cuda.is_available() else ["tests.warm"])  # forks cannot share CUDA


@dataclass(frozen=True)
class Ended:
    """How a process ended and what it said, on both of its streams."""

    code: int
    output: str


class Running:
    """`python train_lora.py <argv>` in a process of its own.

    `prepared` is called in it beforehand, to harm something there; `program` is what follows `python`.
    """

    def __init__(
        self,
        argv: list[str],
        log: Path,
        *,
        program: tuple[str, ...] = ("train_lora.py",),
        environment: dict[str, str] | None = None,
        prepared: Callable[[], None] | None = None,
    ) -> None:
        self._log = log
        words = [*program, *argv]
        self._process = SPAWNER.Process(target=_child, args=(words, str(log), os.getcwd(), environment or {}, prepared))
        with contextlib.chdir(ROOT):  # where the fork server, once started, finds the tests to import
            forkserver.ensure_running()
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 600) -> Ended:
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"still running after {seconds} s:\n{self._log.read_text()}"
        return Ended(self._process.exitcode, self._log.read_text(encoding="utf-8"))

    def wait_for_step(self, folder: Path, step: int, seconds: float = 600) -> None:
        def reached() -> bool:
            path = folder / "metrics.jsonl"
            if path.is_file() and len(path.read_text(encoding="utf-8").splitlines()) >= step:
                return True
            assert self._process.is_alive(), self._log.read_text(encoding="utf-8")
            return False

        wait_until(reached, seconds)


def whole_grid() -> None:
    """For `prepared`: the grid of the page that people get, where warmed processes draw a small one."""
    from pipeline.evaluation import previews
    from tests import warm

    previews.GUIDANCE_FACTORS, previews.SCALES = warm.WHOLE_GRID


def wait_until(condition: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


class World:
    """The same command in several processes that talk to each other, as torchrun starts them."""

    def __init__(
        self,
        num_processes: int,
        argv: list[str],
        log: Path,
        *,
        program: tuple[str, ...] = ("train_lora.py",),
        environment: dict[str, str] | None = None,
        prepared: Callable[[], None] | None = None,
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
        shared |= environment or {}
        shared |= {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes)}
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_processes)]
        self.processes = [
            Running(
                argv,
                log.with_name(f"{log.name}-{number}"),
                program=program,
                environment=shared | rank,
                prepared=prepared,
            )
            for number, rank in enumerate(ranks)
        ]

    def wait(self) -> list[Ended]:
        return [process.wait() for process in self.processes]


def _child(
    words: list[str], log: str, folder: str, environment: dict[str, str], prepared: Callable[[], None] | None
) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(folder)
    os.environ.update(environment)
    if any(name.startswith("HF_") for name in environment):
        importlib.reload(sys.modules["huggingface_hub.constants"])  # read when the parent imported it
    if prepared is not None:
        prepared()
    try:
        code = _run(words)
    except SystemExit as end:
        code = int(end.code or 0)
    if sys.stdout is not None:  # a test may have closed it
        sys.stdout.flush()
    os._exit(code)


def _run(words: list[str]) -> int:
    """What `python` does with these words."""
    match words:
        case ["train_lora.py", *argv]:
            import train_lora

            sys.argv = words
            return train_lora.main(argv)
        case ["-m", "pipeline.bench.reference", folder, shape, num_steps, base, pictures]:
            from pipeline.bench import reference, shapes

            reference.main(Path(folder), shapes.SHAPES[shape], int(num_steps), Path(base), Path(pictures))
            return 0
        case ["-m", "pipeline", *argv]:
            from pipeline.__main__ import main

            sys.argv = ["pipeline/__main__.py", *argv]
            return main(argv)
        case ["-c", code, *argv]:
            sys.argv = ["-c", *argv]
            exec(compile(code, "-c", "exec"), {"__name__": "__main__"})
            return 0
    raise AssertionError(f"nothing is forked for {words}")
