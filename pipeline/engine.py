"""Processes, devices and precision. The only module that knows accelerate.

Every process holds the whole model and a part of each optimizer step's examples. The loss is a sum
divided by the size of the whole step, so gradients are added over processes, never averaged, and
two processes of one micro-step do bit for bit what one process does in two.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.commands.config import config_args
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs, broadcast_object_list, gather_object
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import DistError

from pipeline.errors import ConfigError, PeerLost, reason
from pipeline.status import SCRIPT, launched_by_accelerate, launcher_words

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PATIENCE = timedelta(hours=2)  # of a process that waits for another one, which may be drawing pictures
# How gloo, which raises plain RuntimeErrors, says that a process does not answer.
GONE = re.compile(r"gloo/|[Cc]onnection (?:closed|reset|refused)|[Tt]imed out|Broken pipe")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Precision:
    """What the frozen model computes in, and why. The adapter is float32 in every case."""

    name: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """The torch type of the frozen weights."""
        return DTYPES[self.name]


class Engine:
    """The little a run needs to know about where it runs, and the few things processes say to each other."""

    def __init__(self, mixed_precision: str | None, *, allow_tf32: bool = False, deterministic: bool = True) -> None:
        # Several processes on a machine without a GPU: accelerate's launcher does not tell them to use the CPU.
        # The loop divides by the size of the whole optimizer step itself, so accelerate must not.
        self._accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision=mixed_precision,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # a variable would win over a number
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        self.device: torch.device = self._accelerator.device
        self.precision = _precision(self._accelerator.mixed_precision, mixed_precision, self.device)
        self.rank: int = self._accelerator.process_index
        self.num_processes: int = self._accelerator.num_processes
        asked = int(os.environ.get("WORLD_SIZE", "1"))
        if asked != self.num_processes:
            raise ConfigError(
                f"{asked} processes were started, but accelerate runs {self.num_processes}: give a configuration made "
                "for several (accelerate_configs/cpu_2proc.yaml, multi_gpu.yaml)."
            )
        _refuse_a_lonely_process(self.num_processes)
        self._undo: list[Callable[[], None]] = []
        if self.device.type == "cuda":
            self._undo.append(_kernels_as_they_are())
            _choose_kernels(allow_tf32, deterministic)

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def close(self) -> None:
        """Leave the group of processes, all together: one that ends while still in it may be taken for a crash."""
        if self.num_processes > 1:
            self._accelerator.end_training()

    def at_release(self, undo: Callable[[], None]) -> None:
        """Have something global that a run changed put back with the rest."""
        self._undo.append(undo)

    def release(self) -> None:
        """Undo what is global in the process, for a run of another precision to follow."""
        for undo in self._undo:
            undo()
        AcceleratorState._reset_state(reset_partial_state=self.num_processes == 1)

    def start_tracker(self, kind: str, run_name: str, /, **more: Any) -> Any:
        """One of accelerate's trackers, started; whatever goes wrong there is raised."""
        tracker = LOGGER_TYPE_TO_CLASS[kind](run_name, **more)
        tracker.start()
        return tracker

    def prepare(self, optimizer: torch.optim.Optimizer) -> Any:
        """The optimizer with loss scaling where fp16 needs it.

        What it resumed with stays where it is: AdamW counts steps on the CPU, and on a GPU would wait for each count.
        """
        return self._accelerator.prepare_optimizer(optimizer, device_placement=False)

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Accumulate gradients."""
        self._accelerator.backward(loss)

    def add_gradients(self, parameters: list[nn.Parameter], numbers: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Add up the gradients of all processes, and a few numbers beside them, in one message.

        Returns the sums of the numbers. Raises PeerLost if a process is gone.
        """
        if self.num_processes == 1:
            return numbers
        missing = [parameter for parameter in parameters if parameter.grad is None]  # from the examples here
        given = torch.ones(len(parameters), dtype=numbers.dtype, device=numbers.device)
        if missing:
            given = torch.tensor([float(parameter.grad is not None) for parameter in parameters]).to(given)
        for parameter in missing:
            parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.add(torch.cat([*(gradient.flatten() for gradient in gradients), given, numbers]))
        first = 0
        for gradient in gradients:
            gradient.copy_(flat[first : first + gradient.numel()].view_as(gradient))
            first += gradient.numel()
        if missing:  # read only then: what no process has a gradient for stays without, or optimizers would move it
            for parameter, count in zip(parameters, flat[first : first + len(parameters)].tolist(), strict=True):
                parameter.grad = parameter.grad if count else None
        return flat[first + len(parameters) :]

    def any(self, vote: bool) -> bool:
        """Whether one process says yes. Raises PeerLost if one of them is gone."""
        if self.num_processes == 1:
            return vote
        return bool(self.add(torch.tensor(float(vote), device=self.device)) > 0)

    def add(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The sum over all processes, in the same shape. Raises PeerLost if one of them is gone."""
        if self.num_processes == 1:
            return values
        total: Tensor = self._talk(lambda: self._accelerator.reduce(values, reduction="sum"))
        return total

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in the order of their ranks. Raises PeerLost if one of them is gone."""
        if self.num_processes == 1:
            return [value]
        return self._talk(lambda: gather_object([value]))

    def on_main(self, work: Callable[[], Result]) -> Result:
        """Let the main process do something while the others wait; all get its result, or raise its error."""
        if self.num_processes == 1:
            return work()
        answer: list[Any] = [None, None]
        if self.is_main:
            try:
                answer[0] = work()
            except Exception as error:  # handed on to the others and raised below
                answer[1] = error
        self._talk(lambda: broadcast_object_list(answer))
        if answer[1] is not None:
            raise answer[1]
        result: Result = answer[0]
        return result

    def together(self, work: Callable[[], None]) -> None:
        """Let every process do its part; where one fails, all raise its error."""
        if self.num_processes == 1:
            return work()
        failure: Exception | None = None
        try:
            work()
        except Exception as error:  # handed on to the others and raised below
            failure = error
        failures = [found for found in self.gather(failure) if found is not None]
        if failures:
            raise failures[0]
        return None

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """What keeps float16 gradients from vanishing, by a factor that falls with each overflow; None elsewhere."""
        found: torch.amp.GradScaler | None = self._accelerator.scaler
        return found

    @property
    def peak_memory(self) -> int | None:
        """The most bytes of this process's GPU that were in use at once so far; None without one."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    def clip(self, parameters: list[nn.Parameter], max_norm: float) -> Float[Tensor, ""]:
        """Scale all gradients down to a total norm of `max_norm`; returns the norm before, on the device."""
        norm: Tensor = self._accelerator.clip_grad_norm_(parameters, max_norm)
        return norm

    def _talk(self, say: Callable[[], Result]) -> Result:
        try:
            return say()
        except RuntimeError as error:
            if not (isinstance(error, DistError) or GONE.search(str(error))):
                raise
            said = reason(error)
            raise PeerLost(f"Another process of this run is gone, so process {self.rank} stops ({said})") from error


def _kernels_as_they_are() -> Callable[[], None]:
    """What puts the choice of kernels back."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    sdp: bool = cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    tf32 = cuda.matmul.allow_tf32, cudnn.allow_tf32
    deterministic = torch.are_deterministic_algorithms_enabled()

    def undo() -> None:
        cuda.enable_cudnn_sdp(sdp)
        cuda.matmul.allow_tf32, cudnn.allow_tf32 = tf32
        torch.use_deterministic_algorithms(deterministic)

    return undo


def _choose_kernels(allow_tf32: bool, deterministic: bool) -> None:
    # The gradient of cuDNN's attention, which torch prefers since 2.11, is sometimes NaN in half precision on
    # Hopper (pytorch/pytorch#196678); seen here in FLUX.
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allow_tf32
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for to be deterministic
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # and no time for it


def _refuse_a_lonely_process(num_processes: int) -> None:
    """The launcher starts a single process of those it was asked for where its words or its file keep it on the CPU."""
    words = launcher_words() if num_processes == 1 and launched_by_accelerate() else None
    if words is None:
        return
    launch = launch_command_parser().parse_args([*words, SCRIPT])
    asked = launch.num_processes
    path = launch.config_file or ("" if launch.cpu else config_args.default_config_file)
    if asked is None and os.path.isfile(path):
        asked = config_args.load_config_from_file(path).num_processes
    if (asked or 1) > 1:
        raise ConfigError(
            f"accelerate launch was asked for {asked} processes and started one, as it does with --cpu, MULTI_CPU or "
            "a file made for one. Take --config_file accelerate_configs/cpu_2proc.yaml or multi_gpu.yaml, with "
            "--num_processes; or ask for 1."
        )


def _precision(effective: str, asked: str | None, device: torch.device) -> Precision:
    if effective not in DTYPES:
        raise ConfigError(f"accelerate is set to {effective} precision; no, fp16 and bf16 are offered.")
    if effective == "fp16" and device.type == "cpu":
        raise ConfigError("--mixed_precision fp16 does not work on a CPU; use 'no' (or bf16 where the CPU has it).")
    source = "asked for by --mixed_precision" if asked is not None else "accelerate's setting"
    advice = ": exact and slow; GPUs are made for bf16" if (effective, device.type) == ("no", "cuda") else ""
    return Precision(effective, f"{source}, on {device.type}{advice}")
