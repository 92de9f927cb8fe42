"""The held-out loss: what it is, that nothing but the model moves it, and what follows from it."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file

from pipeline import rng
from pipeline.evaluation import validation
from pipeline.evaluation.statistics import Interval, paired_change, student
from pipeline.evaluation.validation import NUM_LEVELS
from pipeline.run import build
from pipeline.run.encode import encode
from pipeline.run.measured import measured_examples
from tests.conftest import dedupe, make_colours, make_shapes, metrics, prepared, replaced, small_flags, status
from tests.running import Running

FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def measured(miniature, shared, tmp_path_factory):
    """A context with half of the images held out, its denoiser and its validation; not to be changed."""
    folder = tmp_path_factory.mktemp("measured")
    flags = small_flags(miniature, make_colours(folder / "colours"), shared("cache", Path.mkdir))
    context = prepared([*flags, "--validation_split", "0.5"], folder / "out")
    encode(context)
    models = build.load_models(context)
    return context, models.denoiser, build.build_loss_validation(context, models)


@pytest.mark.reference
def test_it_is_the_loss_diffusers_own_parts_give(measured, miniature):
    _, _, found = measured
    scheduler = DDPMScheduler.from_pretrained(miniature, subfolder="scheduler")
    unet = UNet2DConditionModel.from_pretrained(miniature, subfolder="unet").eval()
    assert len(found.held_out) == 4
    for row, subject in enumerate(found.held_out):
        shape = tuple(subject.mean.shape)
        latents = subject.mean + subject.std * rng.normal(0, 0, subject.id, "validation posterior", shape)
        for level in range(NUM_LEVELS):
            noise = rng.normal(0, level, subject.id, "validation noise", shape)
            index = torch.tensor([int((level + 0.5) / NUM_LEVELS * 1000)])
            x_t = scheduler.add_noise(latents[None], noise[None], index)
            for caption, errors in ((subject.caption, found.base.held_out), (None, found.base.held_out_unconditional)):
                text = found.evaluator.prompts(caption)
                with torch.no_grad():
                    said = unet(x_t, index, encoder_hidden_states=text["prompt_embeds"][None]).sample
                loss = torch.nn.functional.mse_loss(said, noise[None]).item()
                assert errors[row, level].item() == pytest.approx(loss, abs=1e-5)


@pytest.mark.unit
def test_examples_of_several_sizes_are_measured_together_as_each_alone(measured):
    _, denoiser, found = measured
    cut = [dataclasses.replace(e, mean=e.mean[:, :, :8], std=e.std[:, :, :8]) for e in found.held_out[:2]]
    mixed = [cut[0], found.held_out[2], cut[1], found.held_out[3]]
    errors = found.evaluator.errors(denoiser.base, mixed)
    alone = torch.cat([found.evaluator.errors(denoiser.base, [example]) for example in mixed])
    torch.testing.assert_close(errors, alone)
    assert len(errors.unique()) == errors.numel() == 4 * NUM_LEVELS


@pytest.mark.unit
def test_an_adapter_that_adds_nothing_changes_nothing_at_all(measured):
    _, denoiser, found = measured
    row = found.measure(denoiser)
    assert row.held_out_change == Interval(0.0, 0.0, 0.0, 4)
    assert row.held_out_loss == row.held_out_base
    assert row.levels.train_subset == row.levels.train_subset_base


@pytest.mark.unit
def test_it_depends_on_neither_seed_nor_batch(small, tmp_path, measured):
    again = prepared(
        [*replaced(small, train_batch_size=5), "--validation_split", "0.5", "--seed", "9"], tmp_path / "out"
    )
    encode(again)
    other = build.build_loss_validation(again, build.load_models(again))
    assert [subject.id for subject in other.held_out] == [subject.id for subject in measured[2].held_out]
    assert torch.allclose(other.base.held_out, measured[2].base.held_out, atol=1e-6)


@pytest.mark.unit
def test_the_held_out_are_never_trained_on(measured):
    context, _, found = measured
    trained = {example.image_id for example in context.data.manifest.examples}
    assert not trained & {example.image_id for example in context.data.held_out.examples}
    assert {subject.id for subject in found.train_subset} <= {example.id for example in context.data.manifest.examples}


@pytest.mark.unit
def test_what_they_are_compared_with_is_trained_on_however_short_the_run(small, tmp_path):
    shapes = make_shapes(tmp_path / "shapes", 30)
    flags = replaced(small, train_data_dir=shapes, max_train_steps=3)
    context = prepared([*flags, "--validation_split", "0.3"], tmp_path / "out")
    places = [place.index for step in range(3) for place in context.plan.sampler.step(step)]
    held_out, compared = measured_examples(context.data, context.plan.seen)
    assert {example.id for example in compared} == {context.data.shown.examples[place].id for place in places}
    assert 0 < len(compared) < len(held_out)


@pytest.mark.reference
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.995])
@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 11, 31])
def test_the_interval_is_students(degrees, confidence):
    """Integrated numerically, so much of the density lies between the two ends."""
    x = torch.linspace(0, student(degrees, confidence), 200_001, dtype=torch.float64)
    log_norm = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - 0.5 * math.log(degrees * math.pi)
    density = torch.exp(log_norm - (degrees + 1) / 2 * torch.log1p(x**2 / degrees))
    assert 2 * torch.trapezoid(density, x).item() == pytest.approx(confidence, abs=1e-6)
    values = torch.arange(degrees + 1, dtype=torch.float64)
    found = paired_change(values + 1, torch.ones(degrees + 1), confidence)
    half = student(degrees, confidence) * values.std().item() / (degrees + 1) ** 0.5
    assert (found.value, found.low, found.high) == pytest.approx((degrees / 2, degrees / 2 - half, degrees / 2 + half))


FLAGS = [
    "--validation_split", "0.5", "--validation_steps", "2", "--checkpointing_steps", "2",
    "--lr_scheduler", "constant", "--num_validation_images", "0",
]  # fmt: skip


@pytest.mark.invariant
def test_the_base_is_the_base_after_a_resume_too(small, tmp_path, trainer):
    """Text encoders that learn have learnt by then."""
    flags = [*replaced(small, num_validation_images=0, max_train_steps=2, learning_rate="1e-2"), "--train_text_encoder"]
    flags += ["--validation_split", "0.5", "--validation_steps", "1", "--checkpointing_steps", "1", "--keep", "last"]
    make_shapes(tmp_path / "class", 4)
    flags += ["--class_data_dir", tmp_path / "class"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert trainer(*flags, "--output_dir", whole).code == 0
    ended = trainer(*flags, "--output_dir", cut, "--resume_from_checkpoint", whole / "checkpoint-1")
    assert ended.code == 0, ended.output
    rows = [row["validation"] for out in (whole, cut) for row in metrics(out) if "validation" in row]
    assert len(rows) == 3
    assert len({row["held_out_base"] for row in rows}) == 1
    assert rows[1] == rows[2]
    of_class = [row["of_class"] for out in (whole, cut) for row in metrics(out) if "of_class" in row]
    assert len({row["base"] for row in of_class}) == 1
    assert of_class[1] == of_class[2]


def test_the_best_is_exported_and_the_last_on_request(small, tmp_path):
    """Where the held-out loss gets worse the best is not the last."""
    flags = dedupe([*replaced(small, max_train_steps=3), *FLAGS])
    flags = replaced(flags, validation_steps=1, checkpointing_steps=1)
    best, last = tmp_path / "best", tmp_path / "last"
    ended = Running([*flags, "--output_dir", str(best)], tmp_path / "log", prepared=worse_and_worse).wait()
    assert ended.code == 0, ended.output
    losses = {row["step"]: row["validation"]["held_out_loss"] for row in metrics(best) if "validation" in row}
    assert list(losses) == [1, 2, 3]
    chosen = min(losses, key=losses.get)
    assert chosen == 1
    assert (best / FILE).read_bytes() != (best / "checkpoint-3" / FILE).read_bytes()
    ours, theirs = load_file(best / FILE), load_file(best / f"checkpoint-{chosen}" / FILE)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not (best / "samples" / "base").exists()
    assert status(best)["message"] == f"trained 3 steps, kept step {chosen}"
    argv = [*flags, "--keep", "last", "--output_dir", str(last)]
    assert Running(argv, tmp_path / "last-log", prepared=worse_and_worse).wait().code == 0
    ours, theirs = load_file(last / FILE), load_file(last / "checkpoint-3" / FILE)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def worse_and_worse():
    """In a run's process: every measurement is a tenth above what it is, and another tenth each time."""
    measure, calls = validation.Validation.measure, iter(range(1, 100))

    def measured(self, denoiser):
        row = measure(self, denoiser)
        return dataclasses.replace(row, held_out_loss=row.held_out_loss + 0.1 * next(calls))

    validation.Validation.measure = measured


@pytest.mark.invariant
def test_patience_ends_a_run_that_gets_no_better_and_it_is_then_complete(trainer, small, tmp_path):
    out = tmp_path / "out"
    flags = dedupe([*replaced(small, learning_rate=2, lora_layers="attention+mlp"), *FLAGS])
    ended = trainer(*flags, "--early_stopping_patience", "1", "--output_dir", out)
    assert ended.code == 0, ended.output
    losses = [(row["step"], row["validation"]["held_out_loss"]) for row in metrics(out) if "validation" in row]
    assert losses[-1][0] < 12
    assert losses[-1][1] >= min(loss for _, loss in losses)
    assert status(out)["step"] == losses[-1][0]
    assert (out / f"checkpoint-{losses[-1][0]}").is_dir()
    again = trainer("--config", out / "run.toml", "--resume_from_checkpoint", "latest")
    assert again.code == 0
    assert "Already complete" in again.output
    refused = trainer(*small, "--early_stopping_patience", "1", "--output_dir", tmp_path / "other")
    assert refused.code == 2
    assert "--validation_split" in refused.output


@pytest.mark.unit
def test_a_measurement_is_what_the_plan_counts():
    assert validation.num_passes(4, 4) == NUM_LEVELS * 12
