"""What the options of the loss ask for is what a run computes: each reaches the path, the batch or the objective."""

import dataclasses
import json

import pytest
import torch

from pipeline.conditioning import stack
from pipeline.data.sampler import Position
from pipeline.errors import ConfigError
from pipeline.objective.guided import GuidedTarget
from pipeline.objective.losses import Huber, huber_error, squared_error
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.weighting import Normalized, SNRWeights
from pipeline.run import build
from pipeline.run.encode import encode
from tests.audit.flaws import picture
from tests.conftest import prepared, replaced, small_flags
from tests.training.test_guided import moved

pytestmark = pytest.mark.unit


@pytest.fixture
def flags(miniature, colours, cache):
    return replaced(small_flags(miniature, colours, cache), lora_layers="attention+mlp")


def task_of(flags, tmp_path):
    context = prepared(flags, tmp_path / "out")
    encode(context)
    models = build.load_models(context)
    return context, models, build.build_task(context, models, build.build_state(context, models))


def test_the_objective_is_what_the_options_say(flags, tmp_path):
    asked = ["--loss_type", "huber", "--huber_c", "0.2", "--huber_schedule", "exponential", "--loss_weighting", "p2"]
    asked += ["--normalize_weights", "--snr_gamma", "0.5", "--guided_target", "cfg", "--guided_target_scale", "3"]
    method = task_of([*flags, *asked], tmp_path)[2].method
    objective = method.objective
    assert objective.huber == Huber(0.2, "exponential")
    assert objective.guided == GuidedTarget("cfg", "live")
    assert isinstance(objective.weighting, Normalized)
    assert objective.weighting.weighting == SNRWeights("p2", 0.5, "epsilon")
    assert method.guided_scale == 3
    assert method.unconditional is not None


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_times_are_drawn_by_the_density_within_the_limits(family, miniature_of, colours, cache, tmp_path):
    flags = [*small_flags(miniature_of(family), colours, cache), "--min_timestep", "200", "--max_timestep", "700"]
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    paths = {
        scheme: prepared([*flags, "--weighting_scheme", scheme, *more], tmp_path / "out").path
        for scheme, more in {"none": (), "beta": ("--beta_a", "1", "--beta_b", "9")}.items()
    }
    times = {scheme: path.time(u, 16) for scheme, path in paths.items()}
    for t in times.values():
        assert t.min() >= 0.199
        assert t.max() <= 0.7
    assert times["none"].mean() - times["beta"].mean() > 0.1
    if family == "sd":
        assert times["beta"].mean().item() == pytest.approx(0.2 + 0.5 * 0.1, abs=0.002)


def test_the_noise_of_a_batch_is_what_the_options_say(flags, tmp_path):
    asked = ["--multires_noise_iterations", "3", "--input_perturbation", "0.3", "--caption_dropout", "0"]
    (context, models, task), plain = task_of([*flags, *asked], tmp_path), task_of(flags, tmp_path)[2]
    positions = [Position(index, 0, context.plan.buckets[0].size) for index in range(2)]
    batch, usual = (some.examples.collate([some.examples[p] for p in positions]) for some in (task, plain))
    assert usual.perturbed is None
    assert not torch.equal(batch.noise, usual.noise)
    assert 0.15 < (batch.perturbed - batch.noise).std() < 0.45
    moved(models.adapted)
    path, denoiser = context.path, models.denoiser
    t = path.time(batch.u, 1)
    seen = path.sample(batch.latents, batch.perturbed, t).x_t  # sees more than it is asked to remove
    with torch.no_grad():
        loss = task.method(batch, torch.device("cpu"))
        error = squared_error(denoiser(seen, t, batch.conditioning), batch.noise)
    torch.testing.assert_close(loss, error)


def test_huber_is_computed_where_it_is_asked_for(flags, tmp_path):
    context, models, task = task_of([*flags, "--loss_type", "huber", "--caption_dropout", "0"], tmp_path)
    batch = task.examples.collate([task.examples[Position(0, 0, context.plan.buckets[0].size)]])
    t = context.path.time(batch.u, 1)
    sample = context.path.sample(batch.latents, batch.noise, t)
    with torch.no_grad():
        prediction = models.denoiser(sample.x_t, t, batch.conditioning)
        loss = task.method(batch, torch.device("cpu"))
    bend = Huber(0.1, "snr").at(t, sample.log_snr)
    torch.testing.assert_close(loss, huber_error(prediction, sample.target, bend))


def test_the_same_tags_in_another_order_are_no_wrong_caption(flags, colours, tmp_path):
    lines = [json.loads(line) for line in (colours / "metadata.jsonl").read_text().splitlines()]
    texts = ["heron, reeds, dawn, mist", "fox, snow, dusk, pine"]
    rows = [{**row, "text": texts[number % 2]} for number, row in enumerate(lines)]
    (colours / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    more = ["--guided_target", "contrastive", "--caption_dropout", "0", "--shuffle_tags"]
    context = prepared([*flags, *more], tmp_path / "out")
    examples = build.build_examples(context)
    for epoch in range(3):
        for index, example in enumerate(context.data.manifest.examples):
            wrong = examples._wrong_caption(Position(index, epoch, context.plan.buckets[0].size))
            assert set(wrong.split(", ")).isdisjoint(example.caption.split(", "))
    one = [*flags, "--guided_target", "contrastive", "--instance_prompt", "x"]
    (colours / "metadata.jsonl").unlink()
    with pytest.raises(ConfigError, match="all pictures share one"):
        prepared(one, tmp_path / "one")


def test_a_wrong_caption_is_anothers_and_another_one_in_each_epoch(flags, tmp_path):
    context = prepared([*flags, "--guided_target", "contrastive", "--caption_dropout", "0"], tmp_path / "out")
    encode(context)
    examples, seen = build.build_examples(context), set()
    number = len(context.data.manifest.examples)
    for epoch in range(4):
        for index in range(number):
            position = Position(index, epoch, context.plan.buckets[0].size)
            wrong, own = examples._wrong_caption(position), context.data.manifest.examples[index].caption
            assert wrong != own
            assert torch.equal(
                examples[position]["wrong"]["prompt_embeds"], context.cache.text_of(wrong)["prompt_embeds"]
            )
            seen.add((index, wrong))
    assert len(seen) > 2 * number


def test_what_is_measured_of_captions_is_without_the_learnt_guidance(flags, tmp_path):
    """Held out, training subset and class alike; without a caption the model is measured as it is."""
    more = ["--validation_split", "0.5", "--guided_target", "model_guidance", "--guided_target_scale", "4"]
    context, models, _ = task_of([*flags, *more], tmp_path)
    validation = build.build_loss_validation(context, models)
    moved(models.adapted)
    row = validation.measure(models.denoiser)
    plain = dataclasses.replace(validation, captioned=None).measure(models.denoiser)
    evaluator, unguided = validation.evaluator, build.unguided(context, models)
    with models.adapted.evaluating():
        held_out, train = (evaluator.errors(unguided, some) for some in (validation.held_out, validation.train_subset))
        without = evaluator.errors(models.denoiser, validation.held_out, [None] * len(validation.held_out))
    assert row.held_out_loss == pytest.approx(held_out.mean().item(), rel=1e-4)
    assert row.train_subset_loss == pytest.approx(train.mean().item(), rel=1e-4)
    assert row.condition_gain == pytest.approx(without.mean().item() - held_out.mean().item(), abs=1e-4)
    assert abs(row.held_out_loss - plain.held_out_loss) > 1e-3


@pytest.mark.parametrize("against", ["base", "live"])
def test_what_is_taken_out_leads_away_from_whom_the_target_does(against, flags, tmp_path):
    asked = ["--guided_target", "model_guidance", "--guided_target_scale", "3", "--guided_target_against", against]
    context, models, task = task_of([*flags, *asked], tmp_path)
    moved(models.adapted)
    batch = task.examples.collate([task.examples[Position(0, 0, context.plan.buckets[0].size)]])
    unguided, denoiser = build.unguided(context, models), models.denoiser
    t = torch.full((1,), 0.5)
    x_t, nothing = context.path.sample(batch.latents, batch.noise, t).x_t, stack([unguided.unconditional])
    with torch.no_grad():
        found, guided = unguided(x_t, t, batch.conditioning), denoiser(x_t, t, batch.conditioning)
        others = {"base": denoiser.base(x_t, t, nothing), "live": denoiser(x_t, t, nothing)}
    torch.testing.assert_close(found, others[against] + (guided - others[against]) / 3)
    assert not torch.allclose(others["base"], others["live"], atol=1e-3)


def silenced(colours, *names: str) -> None:
    """Leave some pictures without a caption."""
    rows = [json.loads(line) for line in (colours / "metadata.jsonl").read_text().splitlines()]
    rows = [{**row, "text": ""} if row["file_name"] in names else row for row in rows]
    (colours / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_of_pictures_without_a_caption_no_guidance_is_taken_out(flags, colours, tmp_path):
    """None was learnt for them; held out, in the training subset, and of the class."""
    silenced(colours, "red.png", "green.png", "blue.png", "black.png")
    (tmp_path / "class").mkdir()
    for name in ("a", "b"):
        picture(ord(name)).save(tmp_path / "class" / f"{name}.png")
    (tmp_path / "class" / "a.txt").write_text("a square", encoding="utf-8")
    more = ["--missing_caption", "empty", "--validation_split", "0.5", "--class_data_dir", str(tmp_path / "class")]
    more += ["--guided_target", "cfg", "--guided_target_scale", "4", "--guided_target_against", "base"]
    context, models, _ = task_of([*flags, *more], tmp_path)
    validation, of_class = build.build_loss_validation(context, models), build.build_loss_of_class(context, models)
    moved(models.adapted)
    evaluator, unguided = validation.evaluator, build.unguided(context, models)

    def expected(examples):
        """Each by itself."""
        asked = [unguided if example.caption else models.denoiser for example in examples]
        return torch.cat([evaluator.errors(ask, [example]) for ask, example in zip(asked, examples, strict=True)])

    parts = (validation.held_out, validation.train_subset, of_class.examples)
    with models.adapted.evaluating():
        wanted = [expected(part).mean().item() for part in parts]
        all_unguided = [evaluator.errors(unguided, part).mean().item() for part in parts]
    assert all("" in {example.caption for example in part} for part in parts)
    assert any(example.caption for example in validation.held_out)
    row, row_of_class = validation.measure(models.denoiser), of_class.measure(models.denoiser)
    found = [row.held_out_loss, row.train_subset_loss, row_of_class.loss]
    assert found == pytest.approx(wanted, rel=1e-4)
    assert all(abs(one - other) > 1e-3 for one, other in zip(found, all_unguided, strict=True))


def test_an_empty_caption_is_no_condition(flags, colours, tmp_path):
    """It reads as the unconditional prompt does, which guidance must not move."""
    silenced(colours, "red.png")
    more = ["--missing_caption", "empty", "--caption_dropout", "0"]
    found, learning = {}, ("--guided_target", "cfg", "--guided_target_scale", "4", "--guided_target_against", "base")
    for name, asked in {"plain": (), "guided": learning}.items():
        context, models, task = task_of([*flags, *more, *asked], tmp_path)
        moved(models.adapted)
        captions = [example.caption for example in context.data.manifest.examples]
        position = Position(captions.index(""), 0, context.plan.buckets[0].size)
        batch = task.examples.collate([task.examples[position]])
        assert batch.captions == ("",)
        found[name] = task.method(batch, torch.device("cpu")).detach()
    torch.testing.assert_close(found["guided"], found["plain"])


def test_the_defaults_are_no_options_at_all():
    assert ObjectiveOptions().problems() == []
    assert ObjectiveOptions().clashes(is_flow=True) == ObjectiveOptions().clashes(is_flow=False) == []
