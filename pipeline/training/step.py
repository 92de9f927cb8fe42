"""One optimizer step: from micro-batches to moved weights, with nothing read back from the device."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.adapter.denoiser import AdaptedDenoiser
from pipeline.adapter.dropout import ExampleDropout
from pipeline.adapter.text_encoders import LivePrompts
from pipeline.conditioning import Conditioning, Embeddings, stack
from pipeline.data.loader import Batch
from pipeline.engine import Engine
from pipeline.errors import EXIT_CTRL_C, EXIT_TERMINATED
from pipeline.objective.objective import Beside, Objective
from pipeline.training import narrow_heads
from pipeline.training.graphs import UpdateGraph
from pipeline.training.guards import GradientGuard
from pipeline.training.state import TrainState


@dataclass(frozen=True)
class StepInputs:
    """What a micro-step computes with: tensors on the device, whose shapes and values are all there is to know."""

    latents: Float[Tensor, "b c h w"]
    noise: Float[Tensor, "b c h w"]
    perturbed: Float[Tensor, "b c h w"] | None
    mask: Float[Tensor, "b 1 h w"] | None
    weights: Float[Tensor, " b"] | None
    t: Float[Tensor, " b"]
    seeds: Int[Tensor, " b"]  # for what is random inside the model
    conditioning: Conditioning
    beside: Beside[Conditioning]


@dataclass(frozen=True)
class Method:
    """What turns a batch into losses: the denoiser, the objective, and text encoders where those learn."""

    denoiser: AdaptedDenoiser
    objective: Objective
    prompts: LivePrompts | None
    dropouts: tuple[ExampleDropout, ...]  # of the denoiser
    preserved: Embeddings | None = None  # of the prompt for which the model shall stay what it was, on the device
    unconditional: Embeddings | None = None  # on the device, where guided targets lead away from it
    guided_scale: float = 1.0  # that is learnt for examples with a caption

    def __call__(self, batch: Batch, device: torch.device) -> Float[Tensor, " b"]:
        """The loss of each example of a batch."""
        return self.losses(self.inputs(batch, device))

    def inputs(self, batch: Batch, device: torch.device) -> StepInputs:
        """A batch on the device, with all that is worked out on the host; text encoders that learn read its captions.

        Times are worked out here, in float64: the same on every device.
        """
        seeds = torch.tensor(batch.seeds).to(device, non_blocking=True)
        conditioning = batch.conditioning.to(device, self.denoiser.dtype)
        if self.prompts is not None:
            live = self.prompts.learning(batch.captions, seeds, batch.emptied)
            conditioning = conditioning.joined(live.to(device, self.denoiser.dtype))
        t = self.objective.path.time(batch.u, self.denoiser.num_tokens(batch.latents))
        there = batch.to(device)
        return StepInputs(
            latents=there.latents,
            noise=there.noise,
            perturbed=there.perturbed,
            mask=there.mask,
            weights=there.weights,
            t=t.to(device, non_blocking=True),
            seeds=seeds,
            conditioning=conditioning,
            beside=self._beside(batch, conditioning, device),
        )

    def losses(self, inputs: StepInputs) -> Float[Tensor, " b"]:
        """The loss of each example, by work on the device alone: nothing is copied there, nothing read back."""
        for layer in self.dropouts:
            layer.seeds = inputs.seeds
        return self.objective.at(self.denoiser, inputs, inputs.t, inputs.conditioning, inputs.beside)

    def _beside(self, batch: Batch, conditioning: Conditioning, device: torch.device) -> Beside[Conditioning]:
        """What else the model is asked for, at the same sizes."""
        preserved = other = scales = None
        if self.preserved is not None:
            preserved = conditioning.joined(stack([self.preserved] * len(batch.ids)))
        if batch.wrong is not None:
            other = conditioning.joined(batch.wrong.to(device, self.denoiser.dtype))
        elif self.unconditional is not None:
            other = conditioning.joined(stack([self.unconditional] * len(batch.ids)))
        if other is not None:
            scales = torch.tensor(
                [self.guided_scale if caption else 1.0 for caption in batch.captions]
            )  # '' says nothing
            scales = scales.to(device, non_blocking=True)
        return Beside(preserved, other, scales)


@dataclass(frozen=True)
class StepNumbers:
    """What a step came to, once it is read."""

    loss: float
    grad_norm: float  # before clipping
    asked: int | None  # the exit code that some process was asked to stop with
    reached: set[str]  # by a gradient, of the tensors that were still waited for


@dataclass(frozen=True)
class StepResult:
    """What a step came to, on the device: reading it waits until the step is done."""

    values: Float[Tensor, " n"]
    waiting: tuple[str, ...]  # the tensors whose flags end the values
    may_overflow: bool  # float16 gradients were scaled, so infinite ones are no failure

    def read(self) -> StepNumbers:
        """One read of the device for everything."""
        loss, terminated, interrupted, norm, *flags = self.values.tolist()
        asked = EXIT_CTRL_C if interrupted else EXIT_TERMINATED if terminated else None
        return StepNumbers(loss, norm, asked, {name for name, flag in zip(self.waiting, flags, strict=True) if flag})


def optimizer_step(
    engine: Engine,
    state: TrainState,
    optimizer: Any,
    losses: Iterable[Float[Tensor, ""]],
    *,
    step: int,
    learning_rate: float,
    max_grad_norm: float,
    guard: GradientGuard,
    asked: int | None,
    graph: UpdateGraph | None = None,
) -> StepResult:
    """Move the weights along the gradient of the sum of `losses`, one for each micro-step, over all processes.

    `optimizer` is the state's as the engine prepared it, `step` counts from 0, `asked` is the exit code that this
    process was asked to stop with. One message goes between processes. A loss that needs no gradient has left it with
    the weights already. With a `graph` clipping and moving are launched as one.
    """
    set_rates(optimizer, learning_rate)
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=engine.device)
    with narrow_heads.padded(engine.device):  # while what is recomputed for the gradient is, too
        for loss in losses:
            if loss.requires_grad:
                engine.backward(loss)
            total = total + loss.detach()
    trained = list(state.named.values())
    votes = torch.tensor([asked == EXIT_TERMINATED, asked == EXIT_CTRL_C], device=engine.device)
    sums = engine.add_gradients(trained, torch.cat([total[None].float(), votes.float()]))
    flags = guard.flags()
    may_overflow = engine.scaler is not None and engine.scaler.get_scale() > 1

    def update() -> Float[Tensor, ""]:
        norm = engine.clip(trained, max_grad_norm)
        optimizer.step()  # leaves a step that overflowed out
        return norm

    norm = update() if graph is None else graph(update)
    if not (may_overflow and optimizer.step_was_skipped):
        state.update_average(step)
    values = torch.stack([*sums, norm.float(), *flags.values()])
    return StepResult(values, tuple(flags), may_overflow)


def set_rates(optimizer: Any, learning_rate: float) -> None:
    """Give each group of an optimizer its learning rate; where that is a tensor, which a graph reads, in place."""
    for group in optimizer.param_groups:
        rate = learning_rate * group["factor"]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
