"""What the base knows is kept where that is asked for: nothing at the start, less drift at the end."""

import pytest
import torch

from pipeline.adapter import lora
from pipeline.conditioning import stack
from pipeline.data.sampler import Position
from pipeline.families import registry
from pipeline.run import build
from pipeline.run.encode import encode
from tests.conftest import metrics, prepared, replaced, small_flags

pytestmark = pytest.mark.invariant
WEIGHT = ["--preservation_weight", "50"]


def made(flags, folder):
    """The method of a prepared run, its adapted models, and a function of a batch to losses."""
    context = prepared(flags, folder)
    encode(context)
    models = build.load_models(context)
    task = build.build_task(context, models, build.build_state(context, models))
    rows = [task.examples[Position(index, 0, context.plan.buckets[0].size)] for index in range(2)]
    return task.method, models.adapted, task.examples.collate(rows)


def gradients(method, adapted, batch):
    losses = method(batch, torch.device("cpu"))
    found = torch.autograd.grad(losses.sum(), list(adapted.parameters().values()))
    return losses.detach(), torch.cat([value.flatten() for value in found])


PROMPT = ["--preservation_prompt", "a square of some colour"]


@pytest.mark.parametrize(("family", "prompt"), [("sd", PROMPT), *((name, []) for name in sorted(registry.NAMES))])
def test_at_the_start_it_is_nothing_and_afterwards_the_distance_to_the_base(
    family, prompt, miniature_of, colours, cache, tmp_path
):
    flags = [*small_flags(miniature_of(family), colours, cache), "--caption_dropout", "0"]
    plain, adapted, batch = made(flags, tmp_path / "out")
    kept, same, _ = made([*flags, *WEIGHT, *prompt], tmp_path / "out")
    for found, wanted in zip(gradients(kept, same, batch), gradients(plain, adapted, batch), strict=True):
        assert torch.equal(found, wanted)
    generator = torch.Generator().manual_seed(0)
    for one, other in zip(adapted.parameters().values(), same.parameters().values(), strict=True):
        one.data += torch.randn(one.shape, generator=generator) * 0.05
        other.data.copy_(one.data)
    loss, _ = gradients(plain, adapted, batch)
    with_it, _ = gradients(kept, same, batch)
    path, denoiser = kept.objective.path, kept.denoiser
    t = path.time(batch.u, denoiser.num_tokens(batch.latents))
    x_t = path.sample(batch.latents, batch.noise, t).x_t
    conditioning = batch.conditioning.joined(stack([kept.preserved] * 2))
    with torch.no_grad():
        drift = (denoiser(x_t, t, conditioning) - denoiser.base(x_t, t, conditioning)).square().mean((1, 2, 3))
    weight = kept.objective.weighting(path.sample(batch.latents, batch.noise, t).log_snr)
    torch.testing.assert_close(with_it - loss, 50 * weight * drift, rtol=1e-3, atol=1e-6)
    assert (drift > 0).all()


@pytest.mark.parametrize("kind", [["--lora_init", "pissa"], ["--use_dora", "--lora_dropout", "0.2"]])
def test_other_kinds_of_adapters_start_at_nothing_too(kind, small, tmp_path):
    kept, adapted, batch = made([*small, *WEIGHT, *kind], tmp_path / "out")
    plain, other, _ = made([*small, *kind], tmp_path / "out")
    found, wanted = gradients(kept, adapted, batch), gradients(plain, other, batch)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-6, atol=1e-6)
    assert (found[1] - wanted[1]).norm() <= 1e-3 * wanted[1].norm()


def test_a_run_with_it_stays_nearer_to_the_base_and_learns_still(trainer, small, miniature, tmp_path):
    from diffusers import StableDiffusionPipeline

    class_prompt, flags = "a square", replaced(small, max_train_steps=20, learning_rate="5e-3")
    asked = {"with": [*WEIGHT, "--preservation_prompt", class_prompt], "without": []}
    drifts = {}
    for name, more in asked.items():
        ended = trainer(*flags, *more, "--output_dir", tmp_path / name)
        assert ended.code == 0, ended.output
        if more:
            assert "what the base predicts for 'a square', with weight 50" in ended.output
        pipe = StableDiffusionPipeline.from_pretrained(miniature)
        generator = torch.Generator().manual_seed(0)
        x_t = torch.randn(4, 4, 8, 8, generator=generator)
        states = pipe.encode_prompt(class_prompt, torch.device("cpu"), 4, False)[0]
        index = torch.tensor([100, 300, 600, 900])
        with torch.no_grad():
            before = pipe.unet(x_t, index, states).sample
            pipe.load_lora_weights(tmp_path / name)
            drifts[name] = (pipe.unet(x_t, index, states).sample - before).norm().item()
        assert all(value.abs().max() > 0 for value in lora.state(pipe.unet, "default_0").values())
    assert drifts["with"] < 0.5 * drifts["without"]
    assert [row["loss"] for row in metrics(tmp_path / "with")] != [row["loss"] for row in metrics(tmp_path / "without")]
