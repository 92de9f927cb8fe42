"""Steps launched as one: what a step does on the device is recorded once for each shape, and replayed.

A step of training is thousands of kernels, and at a small batch a host takes longer to launch them than a GPU to run
them. A CUDA graph launches all at once, but always the same ones on the same addresses: so what changes from step to
step is copied into fixed tensors first. On a CPU a rehearsal executes the same work on the same fixed tensors.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.console import tell

Work = Callable[[], None]  # on fixed tensors, without arguments
Losses = Callable[[Any], Float[Tensor, " b"]]  # of the examples of a micro-step, from a record of tensors
Record = Callable[[Work], Work]  # gives what repeats the work, which has not been done yet then
MAX_GRAPHS = 24  # each keeps its launches on the device; what comes in more shapes than this is launched as ever
WARM_UPS = 3  # libraries choose their kernels and allocate their rooms in the first runs
TOLERANCE = 1e-2  # of a replay, relative: kernels in half precision may add in any order, a wrong address is off by 1


def rehearse(work: Work) -> Work:
    """For a device without graphs: the work itself."""
    return work


class NoHost(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Raises RuntimeError where work reads from the device or copies between it and the host.

    Recording would fail there too, but leaves torch's allocator in the middle of it.
    """

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What the operation gives."""
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise RuntimeError("a number is read from the device")
        found = function(*args, **(kwargs or {}))
        devices = {
            value.device.type for value in tree_leaves((args, found)) if isinstance(value, Tensor) and value.dim()
        }
        if len(devices) > 1:
            raise RuntimeError(f"{function} copies between host and device")
        return found


class CudaRecorder:
    """Records work on a GPU. All graphs share their memory: one is done before the next begins."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        """What replays the work."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile: the loader's pins memory.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        replay: Work = graph.replay
        return replay


def record_for(device: torch.device) -> Record:
    """How work is recorded on a device."""
    return CudaRecorder() if device.type == "cuda" else rehearse


class StepGraphs:
    """Micro-steps by graphs, one for each shape: each leaves its gradients with the weights and returns its loss.

    What cannot be recorded, or does not replay what it did, is launched as ever, and said once.
    """

    def __init__(self, losses: Losses, weights: Sequence[nn.Parameter], batch_size: int, record: Record) -> None:
        self._losses, self._weights, self._batch_size, self._record = losses, list(weights), batch_size, record
        self._sums = [torch.zeros_like(weight) for weight in weights]  # of gradients; graphs know these addresses
        self._reached: set[int] = set()  # the weights that get a gradient; the others have none, as ever
        self._graphs: dict[tuple[Any, ...], _Graph] = {}
        self.failure: str | None = None

    def begin(self) -> None:
        """Start an optimizer step: no gradients yet."""
        torch._foreach_zero_(self._sums)
        self._attach()

    def _attach(self) -> None:
        for index in self._reached:
            self._weights[index].grad = self._sums[index]

    def __call__(self, inputs: Any) -> Float[Tensor, ""]:
        """The loss, a sum divided by the examples of the whole step. Where it needs a gradient, none was left."""
        key = tuple((tuple(value.shape), value.dtype) for value in tensors_of(inputs))
        if key not in self._graphs and self.failure is None and len(self._graphs) < MAX_GRAPHS:
            try:
                self._graphs[key] = self._recorded(inputs)
            except RuntimeError as error:  # of the device, of a library that reads from it, or out of memory
                self.failure = (str(error).strip() or type(error).__name__).splitlines()[0]
                tell(f"This step cannot be recorded as a graph ({self.failure}), so it is launched kernel by kernel.")
        if key not in self._graphs:
            return self._losses(inputs).sum() / self._batch_size
        return self._graphs[key].replay(inputs)

    def _recorded(self, inputs: Any) -> "_Graph":
        """The graph of these shapes, proven to repeat what it was recorded from. The gradients are as before."""
        before = [value.clone() for value in self._sums]
        fixed: Any = mapped(inputs, torch.clone)
        loss = torch.zeros((), device=self._sums[0].device)

        def work() -> None:
            total = self._losses(fixed).sum() / self._batch_size
            gradients = torch.autograd.grad(total, self._weights, allow_unused=True)
            self._reached |= {index for index, gradient in enumerate(gradients) if gradient is not None}
            there = [(own, found) for own, found in zip(self._sums, gradients, strict=True) if found is not None]
            torch._foreach_add_([own for own, _ in there], [found for _, found in there])
            loss.copy_(total.detach())

        try:
            expected = self._warmed_up(work, loss)
            graph = _Graph(fixed, loss, self._record(work))
            torch._foreach_zero_(self._sums)
            difference = _difference(graph.replay(inputs), self._sums, expected)
            if not difference <= TOLERANCE:
                raise RuntimeError(f"its replay is {difference:.2g} away from what was recorded")
        finally:
            torch._foreach_copy_(self._sums, before)
            self._attach()
        return graph

    def _warmed_up(self, work: Work, loss: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Do the work a few times, aside on a GPU, as graphs ask for; what it came to, once.

        The host may take part in the first: families keep what they make there of a shape.
        """

        def several() -> None:
            for number in range(WARM_UPS if loss.is_cuda else 2):
                torch._foreach_zero_(self._sums)
                with NoHost() if number == 1 else contextlib.nullcontext():  # type: ignore[no-untyped-call]  # as above
                    work()

        aside(several, loss.device)
        return loss.clone(), [value.clone() for value in self._sums]


@dataclasses.dataclass(frozen=True)
class _Graph:
    fixed: Any
    loss: Tensor
    again: Work

    def replay(self, inputs: Any) -> Float[Tensor, ""]:
        """The loss of other values of the same shapes; the next replay overwrites it."""
        torch._foreach_copy_(tensors_of(self.fixed), tensors_of(inputs))
        self.again()
        return self.loss


class UpdateGraph:
    """Clipping and the optimizer's step as one graph: the first step is taken as ever, for it makes the moments.

    Only for an optimizer that torch says can be captured; its learning rates become tensors, and its counters lie on
    the device.
    """

    def __init__(self, weights: Sequence[nn.Parameter], record: Record) -> None:
        self._weights, self._record = list(weights), record
        self._gradients: list[Tensor | None] = []
        self._again: Work | None = None
        self._norm = torch.zeros(())

    def __call__(self, update: Callable[[], Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """Clip and step, which `update` does, the same in every call; returns the norm before clipping."""
        gradients = [weight.grad for weight in self._weights]
        if len(self._gradients) != len(gradients) or any(
            own is not known for own, known in zip(gradients, self._gradients, strict=True)
        ):  # at first, and where other weights have gradients than before
            self._gradients, self._again = gradients, None
            self._norm = update().clone()
            return self._norm.clone()
        if self._again is None:
            self._again = self._record(lambda: void(self._norm.copy_(update())))
        self._again()
        return self._norm.clone()


def void(_: object) -> None:
    """Nothing, of anything: for work that is a call."""


@dataclasses.dataclass(frozen=True)
class Graphs:
    """The graphs of a run."""

    step: StepGraphs
    update: UpdateGraph | None  # None: the optimizer's step is launched as ever


def build_graphs(
    losses: Losses, weights: Sequence[nn.Parameter], batch_size: int, optimizer: torch.optim.Optimizer
) -> Graphs:
    """Graphs of steps of `batch_size` examples, on the device of the weights; the optimizer is made ready for them."""
    device = weights[0].device
    record = record_for(device)
    is_capturable = all("capturable" in group for group in optimizer.param_groups)  # torch's own name the option
    if is_capturable and device.type == "cuda":
        make_capturable(optimizer, device)
    return Graphs(
        StepGraphs(losses, weights, batch_size, record), UpdateGraph(weights, record) if is_capturable else None
    )


def make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Put on a GPU what an optimizer reads in each step: learning rates and counters."""
    for group in optimizer.param_groups:
        group["capturable"] = True
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].to(device)
    optimizer._warned_capturable_if_run_uncaptured = True  # the first step is, knowingly


def aside(work: Work, device: torch.device) -> None:
    """Do work on a stream of its own, as graphs want it before they are recorded; on a CPU do it."""
    if device.type != "cuda":
        work()
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream(device).wait_stream(stream)


def mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A record of tensors with each of them changed; records, mappings and lists within it too."""
    if isinstance(tree, Tensor):
        return change(tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree)]
        return dataclasses.replace(tree, **{name: mapped(getattr(tree, name), change) for name in names})
    if isinstance(tree, Mapping):
        return {name: mapped(value, change) for name, value in tree.items()}
    return [mapped(value, change) for value in tree] if isinstance(tree, list) else tree


def tensors_of(tree: Any) -> list[Shaped[Tensor, "..."]]:
    """Every tensor of a record, [...] each, in a fixed order."""
    found: list[Tensor] = []

    def collect(value: Tensor) -> Tensor:
        found.append(value)
        return value

    mapped(tree, collect)
    return found


def _difference(loss: Tensor, sums: Sequence[Tensor], expected: tuple[Tensor, list[Tensor]]) -> float:
    """How far loss and gradients are from the expected ones, relative; infinite where they are no numbers."""
    wanted_loss, wanted = expected
    off = torch.stack([(own - other).norm() for own, other in zip(sums, wanted, strict=True)]).norm().item()
    size = torch.stack([value.norm() for value in wanted]).norm().item()
    found = max(abs(loss.item() - wanted_loss.item()) / max(abs(wanted_loss.item()), 1e-12), off / max(size, 1e-12))
    return found if math.isfinite(found) else math.inf
