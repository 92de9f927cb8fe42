"""What steps cost, seen from outside: a watch that is told when each begins, on a GPU or a CPU."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.training.schedule import Schedule

GIB = 2**30
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx", "cudaGraphLaunch")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


@dataclass
class Watch:
    """Told at the beginning of each step, counted from 0, and at the end of the last one.

    After `warm_up` steps it measures `steps` of them, and looks into one more with torch's profiler.
    """

    device: torch.device
    warm_up: int
    steps: int
    started: float = field(default_factory=time.perf_counter)  # when loading began
    found: dict[str, float] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """How many steps it is to be told of."""
        return self.warm_up + self.steps + 1

    def __call__(self, step: int) -> None:
        """A step begins; with `num_steps` all are over."""
        if step == 1:
            self._wait()
            self.found["first_step_s"] = time.perf_counter() - self.started
        if step == self.warm_up:
            self._wait()
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            self._from = self._clocks()
        if step == self.warm_up + self.steps:
            self._measured()
            self._profiler = _profiler(self.device)
            self._profiler.__enter__()
        if step == self.num_steps:
            self._wait()
            self._profiler.__exit__(None, None, None)
            self.found |= looked_into(self._profiler, self.device)

    def _measured(self) -> None:
        main, everything = (now - before for now, before in zip(self._clocks()[1:], self._from[1:], strict=True))
        self._wait()
        self.found["step_ms"] = (time.perf_counter() - self._from[0]) / self.steps * 1e3
        self.found["host_ms"], self.found["process_ms"] = main / self.steps * 1e3, everything / self.steps * 1e3
        if self.device.type == "cuda":
            self.found["allocated_gib"] = torch.cuda.max_memory_allocated(self.device) / GIB
            self.found["reserved_gib"] = torch.cuda.max_memory_reserved(self.device) / GIB

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @staticmethod
    def _clocks() -> tuple[float, float, float]:
        return time.perf_counter(), time.thread_time(), time.process_time()


@dataclass(frozen=True)
class Watched(Schedule):
    """A schedule that tells the watch of each step: the loop asks for the learning rate as a step begins."""

    watch: Callable[[int], None] | None = None

    def __call__(self, step: int) -> float:
        """The learning rate of a step that begins."""
        if self.watch is not None:
            self.watch(step)
        return super().__call__(step)


def _profiler(device: torch.device) -> Any:
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    return torch.profiler.profile(activities=kinds)


def looked_into(profiler: Any, device: torch.device) -> dict[str, float]:
    """Of one profiled step: kernels, what launched them, the share of time that the GPU idled, and waiting for it."""
    if device.type != "cuda":
        return {}
    events = profiler.events()
    kernels = [event for event in events if event.device_type.name == "CUDA"]
    spans = sorted((event.time_range.start, event.time_range.end) for event in kernels)
    launches = sum(event.name.startswith(LAUNCHES) for event in events)
    waits = sum(event.time_range.elapsed_us() for event in events if event.name in WAITS)
    found = {"kernels": float(len(kernels)), "launches": float(launches), "waiting_ms": waits / 1e3}
    return found | ({"idle_share": idle_share(spans)} if spans else {})


def idle_share(spans: list[tuple[float, float]]) -> float:
    """The share of the time between the first beginning and the last end that no span covers; they are in order."""
    busy, reached = 0.0, spans[0][0]
    for begin, end in spans:
        busy += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return 1 - busy / max(reached - spans[0][0], 1e-9)
