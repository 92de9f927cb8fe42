"""What processes say to each other in a step, where not every one of them has a gradient for every tensor."""

import threading

import pytest
import torch
from torch import nn

from pipeline import engine as engines
from pipeline.engine import Engine
from pipeline.errors import ConfigError

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


def test_no_variable_divides_the_gradients(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    engine, weight = Engine(None), torch.nn.Parameter(torch.ones(()))
    engine.backward(3 * weight)
    engine.release()
    assert weight.grad == 3


MANY_ON_CPU = "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nnum_processes: 3\nuse_cpu: true\n"


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["--num_processes", "2", "--cpu"], 2),
        (["--num-processes=4", "--config_file", "FILE"], 4),
        (["--config_file", "FILE"], 3),
        ([], 3),
        (["--cpu"], None),  # then accelerate does not read its own file either
        (["--num_processes", "1", "--config_file", "FILE"], None),
        (None, None),
    ],
)
def test_one_process_where_the_launcher_was_asked_for_several_is_refused(monkeypatch, tmp_path, words, asked):
    file = tmp_path / "default_config.yaml"
    file.write_text(MANY_ON_CPU, encoding="utf-8")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setattr(engines.config_args, "default_config_file", str(file))
    found = None if words is None else [word.replace("FILE", str(file)) for word in words]
    monkeypatch.setattr(engines, "launcher_words", lambda: found)
    if asked is None:
        Engine(None).release()
        return
    with pytest.raises(ConfigError, match=f"asked for {asked} processes and started one.*cpu_2proc.yaml"):
        Engine(None)
