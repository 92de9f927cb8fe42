"""A step of training for a GPU that is quicker than its host: in bfloat16, and launched as one graph."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class InHalf:
    """A denoiser learning in a bfloat16 copy of itself, its own weights float32 for the optimizer.

    Autocast would lift every norm and what follows it to float32, and such small layers wait for memory. The copy
    takes the weights anew in every step, and hands its gradients to them.
    """

    def __init__(self, unet: Any) -> None:
        self._half = copy.deepcopy(unet).bfloat16().to(memory_format=torch.channels_last)
        self._halves, self._whole = list(self._half.parameters()), list(unet.parameters())

    def learn(
        self,
        x_t: Float[Tensor, "b c h w"],
        index: Int[Tensor, " b"],
        states: Float[Tensor, "b l d"],
        target: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, ""]:
        """The squared error of (x_t, index, text states, target), float32; its gradient is left with the weights."""
        with torch.no_grad():
            torch._foreach_copy_(self._halves, self._whole)
        given = x_t.bfloat16().contiguous(memory_format=torch.channels_last)
        prediction: Tensor = self._half(given, index, states.bfloat16()).sample
        loss = (prediction.float() - target).square().mean()
        gradients = torch.autograd.grad(loss, self._halves)
        for whole, gradient in zip(self._whole, gradients, strict=True):
            whole.grad = gradient.float().contiguous()
        return loss.detach()


class Captured:
    """A function of tensors of fixed shapes that leaves gradients with weights: captured once, then replayed.

    Thousands of kernels of microseconds each are launched as one; a host can need twice as long for them as the
    GPU does. What the function holds must live as long as its graph, which reads the same addresses.
    """

    def __init__(self, learn: Callable[..., Tensor], weights: list[nn.Parameter], examples: list[Tensor]) -> None:
        self._learn, self._weights = learn, weights
        self._inputs = [example.clone() for example in examples]
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # libraries choose their kernels
                learn(*self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = learn(*self._inputs)
        self._gradients = [weight.grad for weight in weights]

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The loss; the weights have the gradients."""
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        self._graph.replay()
        for weight, gradient in zip(self._weights, self._gradients, strict=True):
            weight.grad = gradient
        return self._loss.clone()
