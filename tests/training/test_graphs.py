"""A step that can be launched as one: tensors on the device alone go in, and what is recorded is what is done."""

import dataclasses
import shutil

import pytest
import torch

import train_lora
from pipeline.families import flux, registry
from pipeline.run import build
from pipeline.run.encode import encode
from pipeline.training import graphs, loop
from tests.conftest import metrics, prepared, replaced, small_flags

pytestmark = pytest.mark.unit
FILE = "pytorch_lora_weights.safetensors"
NEEDS_HOST = {"lumina2"}  # diffusers' transformer asks each mask how long its text is


def task_of(flags, folder):
    context = prepared(flags, folder)
    encode(context)
    models = build.load_models(context)
    task = build.build_task(context, models, build.build_state(context, models))
    models.adapted.denoiser.train()
    return context, task


def inputs_of(context, task):
    return task.method.inputs(next(loop.micro_batches(context.engine, task, 0)), context.engine.device)


@pytest.mark.parametrize("family", sorted(set(registry.NAMES) - NEEDS_HOST))
def test_a_micro_step_copies_nothing_to_the_device_and_reads_nothing(family, miniature_of, colours, cache, tmp_path):
    """On the meta device, which holds no values: what needs one, or mixes it with the host, raises."""
    flags = [*small_flags(miniature_of(family), colours, cache), "--lora_dropout", "0.1", "--gradient_checkpointing"]
    context, task = task_of(flags, tmp_path / "out")
    inputs, method = inputs_of(context, task), task.method
    method.denoiser.adapted.denoiser.to("meta")
    there = dataclasses.replace(method.objective, path=method.objective.path.to(torch.device("meta")))
    method = dataclasses.replace(method, objective=there)
    inputs = graphs.mapped(inputs, lambda value: value.to("meta"))
    method.losses(inputs)  # what families keep of a shape is made once
    weights = list(method.denoiser.adapted.parameters().values())
    with graphs.NoHost():
        found = torch.autograd.grad(method.losses(inputs).sum(), weights)
    assert {value.device.type for value in found} == {"meta"}


@pytest.mark.parametrize(
    "more",
    [
        ["--gradient_accumulation_steps", "2", "--lora_dropout", "0.2", "--use_ema"],
        ["--max_aspect", "2", "--bucket_step", "16", "--preservation_weight", "0.5", "--gradient_checkpointing"],
    ],
    ids=["accumulated", "buckets"],
)
def test_recorded_steps_are_the_steps(small, tmp_path, more):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flags = [*replaced(small, max_train_steps=4), *more, "--checkpointing_steps", "2"]
    assert train_lora.main([*flags, "--output_dir", str(whole)]) == 0
    assert train_lora.main([*flags, "--output_dir", str(cut), "--cuda_graphs", "on"]) == 0
    assert (cut / FILE).read_bytes() == (whole / FILE).read_bytes()
    wanted = [(row["loss"], row["grad_norm"]) for row in metrics(whole)]
    assert [(row["loss"], row["grad_norm"]) for row in metrics(cut)] == wanted
    shutil.rmtree(cut / "checkpoint-4")
    (cut / FILE).unlink()
    resumed = [*flags, "--output_dir", str(cut), "--cuda_graphs", "on", "--resume_from_checkpoint", "latest"]
    assert train_lora.main(resumed) == 0
    assert (cut / FILE).read_bytes() == (whole / FILE).read_bytes()


def squares(weight):
    return lambda inputs: (inputs["x"] * weight).square()


def test_each_shape_has_its_graph_and_gradients_add_up_over_all_of_them():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    other = torch.nn.Parameter(torch.zeros(3))  # that nothing reaches
    recorded = []

    def record(work):
        recorded.append(work)
        return work

    step = graphs.StepGraphs(squares(weight), [weight, other], 2, record)
    for start in range(2):
        step.begin()
        first, second = torch.tensor([1.0 + start, 1.0]), torch.tensor([[3.0, 1.0 + start]])
        losses = [step({"x": value}).clone() for value in (first, second, first)]
        expected = [(value * weight).square().sum() / 2 for value in (first, second, first)]
        assert losses == expected
        assert torch.equal(weight.grad, torch.autograd.grad(sum(expected), weight)[0])
        assert other.grad is None
    assert len(recorded) == 2
    assert step.failure is None


def failing(work):
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


def forgetful(work):
    return lambda: None


def reading(weight):
    return lambda inputs: (inputs["x"] * weight).square() * (1 if inputs["x"].max().item() else 2)


@pytest.mark.parametrize(
    ("losses", "record", "said"),
    [
        (squares, failing, "not permitted"),
        (squares, forgetful, "away from what was recorded"),
        (reading, graphs.rehearse, "a number is read"),
    ],
)
def test_what_cannot_be_recorded_or_replays_something_else_is_launched_as_ever(losses, record, said, capfd):
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    step = graphs.StepGraphs(losses(weight), [weight], 1, record)
    for _ in range(2):
        weight.grad = None
        step.begin()
        loss = step({"x": torch.tensor([1.0, 3.0])})
        assert loss.requires_grad
        loss.backward()
        assert weight.grad.tolist() == [2.0, 36.0]
    assert said in step.failure
    assert capfd.readouterr().err.count("launched kernel by kernel") == 1


def test_what_is_made_of_a_shape_at_first_may_come_from_the_host():
    weight, kept = torch.nn.Parameter(torch.ones(2)), []

    def losses(inputs):
        if not kept:
            kept.append(inputs["x"].max().item())
        return squares(weight)(inputs)

    step = graphs.StepGraphs(losses, [weight], 1, graphs.rehearse)
    step.begin()
    assert not step({"x": torch.ones(2)}).requires_grad
    assert step.failure is None


def test_places_of_tokens_stay_where_graphs_read_them():
    def places(height):
        return flux._places(height, 1, torch.device("cpu"), torch.float32)

    first = places(1)
    assert [len(places(height)) for height in range(2, 200)] == list(range(2, 200))
    assert places(1) is first


def test_shapes_beyond_the_limit_are_launched_as_ever(monkeypatch):
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 1)
    weight = torch.nn.Parameter(torch.ones(1))
    step = graphs.StepGraphs(squares(weight), [weight], 1, graphs.rehearse)
    assert [step({"x": torch.ones(size)}).requires_grad for size in (1, 2, 1, 2)] == [False, True, False, True]


def test_an_update_is_recorded_after_its_first_step_and_anew_where_other_weights_learn():
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    taken, recorded = [], []

    def record(work):
        recorded.append(len(taken))
        return work

    def update():
        taken.append([weight.grad is not None for weight in weights])
        return torch.tensor(float(len(taken)))

    graph = graphs.UpdateGraph(weights, record)
    weights[0].grad = torch.ones(2)
    assert [graph(update).item() for _ in range(3)] == [1, 2, 3]
    weights[1].grad = torch.ones(2)
    assert [graph(update).item() for _ in range(2)] == [4, 5]
    assert recorded == [1, 4]
    assert taken == [[True, False]] * 3 + [[True, True]] * 2


def test_what_graphs_ask_of_an_optimizer_is_not_kept_in_checkpoints(small, tmp_path):
    context, task = task_of(small, tmp_path / "out")
    plain = task.state.facts()["optimizer"]["groups"]
    graphs.make_capturable(task.state.optimizer, torch.device("cpu"))
    assert all(isinstance(group["lr"], torch.Tensor) for group in task.state.optimizer.param_groups)
    found = task.state.facts()["optimizer"]["groups"]
    assert found == [{**group, "lr": pytest.approx(group["lr"])} for group in plain]
    assert context.plan.speed.rows == ()


@pytest.mark.parametrize(("flags", "said"), [(["--train_text_encoder"], "captions on the host")])
def test_graphs_that_cannot_be_are_refused(small, tmp_path, capfd, flags, said):
    assert train_lora.main([*small, "--cuda_graphs", "on", *flags, "--output_dir", str(tmp_path / "out")]) == 2
    assert said in capfd.readouterr().err
