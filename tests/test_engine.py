"""What processes say to each other in a step, where not every one of them has a gradient for every tensor."""

import threading

import pytest
import torch
from torch import nn

from pipeline.engine import Engine

pytestmark = pytest.mark.unit


def parameters_with(*gradients):
    """Parameters of two numbers, with these gradients."""
    found = [nn.Parameter(torch.zeros(2)) for _ in gradients]
    for parameter, gradient in zip(found, gradients, strict=True):
        parameter.grad = None if gradient is None else torch.tensor(gradient)
    return found


def together(*processes):
    """Add up the gradients of several processes, here threads; returns the sums of the numbers beside them."""
    said, barrier, sums = {}, threading.Barrier(len(processes)), {}

    def run(rank, parameters):
        engine = Engine.__new__(Engine)
        engine.num_processes = len(processes)

        def add(values):
            said[rank] = values
            barrier.wait(10)
            return torch.stack([said[one] for one in range(len(processes))]).sum(0)

        engine.add = add
        sums[rank] = engine.add_gradients(parameters, torch.tensor([float(rank), 1.0]))

    threads = [threading.Thread(target=run, args=item) for item in enumerate(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [sums[rank].tolist() for rank in range(len(processes))]


def test_a_tensor_that_some_process_has_no_gradient_for_gets_that_of_the_others():
    """Also where they lack as many numbers as each other, but not the same."""
    first = parameters_with([1.0, 2.0], None, [3.0, 4.0], None)
    second = parameters_with([10.0, 20.0], [5.0, 6.0], None, None)
    assert together(first, second) == [[1.0, 2.0]] * 2
    for parameters in (first, second):
        found = [None if one.grad is None else one.grad.tolist() for one in parameters]
        assert found == [[11.0, 22.0], [5.0, 6.0], [3.0, 4.0], None]
