"""Guidance in the target on the real denoisers: what a batch's loss is, and what of it a held-out loss sees."""

import pytest
import torch

from pipeline.conditioning import stack
from pipeline.errors import ConfigError
from pipeline.objective.losses import squared_error
from pipeline.run import build
from pipeline.run.encode import encode
from tests.conftest import prepared, replaced, small_flags
from tests.training.test_preservation import gradients, made

pytestmark = pytest.mark.invariant
SCALE = 2.5


def moved(adapted):
    generator = torch.Generator().manual_seed(0)
    for value in adapted.parameters().values():
        value.data += torch.randn(value.shape, generator=generator) * 0.05


@pytest.mark.parametrize(
    ("family", "kind", "against"),
    [
        ("sd", "model_guidance", "live"),
        ("sdxl", "cfg", "base"),
        ("sd3", "contrastive", "base"),
        ("sana", "contrastive", "live"),
        ("lumina2", "model_guidance", "base"),
    ],
)
def test_the_target_leads_away_from_another_prediction(family, kind, against, miniature_of, colours, cache, tmp_path):
    flags = [*small_flags(miniature_of(family), colours, cache), "--caption_dropout", "0.4"]
    guided = ["--guided_target", kind, "--guided_target_scale", str(SCALE), "--guided_target_against", against]
    method, adapted, batch = made([*flags, *guided], tmp_path / "out")
    moved(adapted)
    assert None not in batch.captions
    losses, _ = gradients(method, adapted, batch)
    denoiser, path = method.denoiser, method.objective.path
    t = path.time(batch.u, denoiser.num_tokens(batch.latents))
    sample = path.sample(batch.latents, batch.noise, t)
    if kind == "contrastive":
        wrong = batch.wrong
        assert not torch.equal(wrong["prompt_embeds"], batch.conditioning["prompt_embeds"])
    else:
        wrong = stack([method.unconditional] * 2)
        assert batch.wrong is None
    with torch.no_grad():
        prediction = denoiser(sample.x_t, t, batch.conditioning)
        ask = denoiser.base if against == "base" else denoiser
        other = ask(sample.x_t, t, batch.conditioning.joined(wrong))
    sigma = torch.sigmoid(-sample.log_snr / 2)[:, None, None, None]
    target = {
        "model_guidance": sample.target + (1 - 1 / SCALE) * (prediction - other),
        "cfg": other + (1 + (SCALE - 1) * sigma) * (sample.target - other),
        "contrastive": other + SCALE * (sample.target - other),
    }[kind]
    weight = method.objective.weighting(sample.log_snr) / (SCALE if kind == "contrastive" else 1)
    torch.testing.assert_close(losses, weight * squared_error(prediction, target), rtol=1e-4, atol=1e-6)
    assert (prediction - other).abs().max() > 1e-4


def test_an_example_without_its_caption_learns_from_the_data_alone(miniature, colours, cache, tmp_path):
    flags = [*small_flags(miniature, colours, cache), "--caption_dropout", "1"]
    plain, adapted, batch = made(flags, tmp_path / "out")
    guided, same, other = made([*flags, "--guided_target", "cfg"], tmp_path / "out")
    moved(adapted)
    moved(same)
    assert other.captions == (None, None)
    losses = [gradients(*parts)[0] for parts in ((plain, adapted, batch), (guided, same, other))]
    torch.testing.assert_close(losses[1], losses[0])


def test_the_held_out_loss_is_that_without_the_guidance(miniature, colours, cache, tmp_path):
    """A model that answers at the learnt scale is as good as one that answers as the data do."""
    flags = [*small_flags(miniature, colours, cache), "--validation_split", "0.5", "--caption_dropout", "0"]
    flags += ["--guided_target", "model_guidance", "--guided_target_scale", str(SCALE)]
    flags += ["--guided_target_against", "base"]
    context = prepared(flags, tmp_path / "out")
    encode(context)
    models = build.load_models(context)
    validation = build.build_loss_validation(context, models)
    moved(models.adapted)
    unguided, denoiser = validation.captioned, models.denoiser
    (example, *_), evaluator = validation.held_out, validation.evaluator

    def at_the_scale(x_t, t, conditioning):
        others = conditioning.joined(stack([unguided.unconditional] * len(x_t)))
        away = denoiser.base(x_t, t, others)
        return away + SCALE * (plain(x_t, t, conditioning) - away)

    plain = models.denoiser.__call__
    expected = evaluator.errors(plain, [example])
    guided = build.unguided(context, models)
    object.__setattr__(guided, "denoiser", _Answers(denoiser, at_the_scale))
    torch.testing.assert_close(evaluator.errors(guided, [example]), expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(evaluator.errors(at_the_scale, [example]), expected, rtol=1e-2)


class _Answers:
    """A denoiser with other predictions."""

    def __init__(self, denoiser, predict):
        self.base, self.dtype, self._predict = denoiser.base, denoiser.dtype, predict

    def __call__(self, x_t, t, conditioning):
        return self._predict(x_t, t, conditioning)


def test_a_distilled_model_has_nothing_to_lead_away_from(miniature_of, colours, cache, tmp_path):
    flags = small_flags(miniature_of("flux"), colours, cache)
    with pytest.raises(ConfigError, match="distilled to answer as if guided"):
        prepared([*flags, "--guided_target", "cfg"], tmp_path / "out")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--guided_target_against", "live", "--caption_dropout", "0"], "never trains"),
        (["--train_text_encoder"], "encoded before training"),
    ],
)
def test_what_cannot_be_is_said(more, said, miniature, colours, cache, tmp_path):
    flags = small_flags(miniature, colours, cache)
    with pytest.raises(ConfigError, match=said):
        prepared([*flags, "--guided_target", "model_guidance", *more], tmp_path / "out")


def test_a_wrong_captions_prediction_is_trained_whatever_is_dropped(miniature, colours, cache, tmp_path):
    flags = [*small_flags(miniature, colours, cache), "--guided_target", "contrastive", "--caption_dropout", "0"]
    assert prepared([*flags, "--guided_target_against", "live"], tmp_path / "out").run.objective.guided_target


def test_the_times_of_one_example_cannot_be_parted(miniature, colours, cache, tmp_path):
    flags = [*replaced(small_flags(miniature, colours, cache), train_batch_size=1), "--stratified_timesteps"]
    with pytest.raises(ConfigError, match="a step has one example"):
        prepared(flags, tmp_path / "out")
    prepared([*flags, "--gradient_accumulation_steps", "2"], tmp_path / "out")


def test_previews_are_guided_by_what_is_left_and_too_much_is_said(miniature, colours, cache, tmp_path):
    flags = [*small_flags(miniature, colours, cache), "--guided_target", "cfg", "--guided_target_scale", "3"]
    context = prepared(flags, tmp_path / "out")
    assert context.run.preview.guidance == pytest.approx(7.5 / 3)
    assert not any("guidance multiplies" in note for note in context.plan.notes)
    context = prepared([*flags, "--guidance_scale", "7.5"], tmp_path / "out")
    assert any("3 learnt and 7.5 in previews make 22.5" in note for note in context.plan.notes)


def test_times_of_a_step_are_drawn_from_equal_parts(miniature, colours, cache, tmp_path):
    """By the place in the whole step, so whatever it is cut into; and an example's place is another in each epoch."""
    flags = replaced(small_flags(miniature, colours, cache), train_batch_size=4)
    context = prepared([*flags, "--stratified_timesteps", "--gradient_accumulation_steps", "2"], tmp_path / "out")
    encode(context)
    examples, places = build.build_examples(context), set()
    for step in range(4):
        positions = context.plan.sampler.step(step)
        parts = [int(8 * examples[position]["u"]) for position in positions]
        assert parts == list(range(8))
        places |= {(position.index, position.place) for position in positions}
    assert len(places) > 8
