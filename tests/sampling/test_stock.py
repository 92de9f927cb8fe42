"""Guidance inside the stock pipelines of every family that compares with something."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.sana import pipeline_sana
from torch import Tensor

from pipeline.evaluation import snippet
from pipeline.evaluation.sample import Sampler, SampleRequest, SampleSettings, guidance_clashes
from pipeline.families import registry
from pipeline.geometry import Size
from pipeline.objective.options import ObjectiveOptions
from pipeline.sampling.guided import Guided, Traits
from pipeline.sampling.options import GuidanceOptions
from pipeline.sampling.perturbed import OnItself
from tests.conftest import attach

pytestmark = pytest.mark.contract
FAMILIES = ("sd", "sdxl", "sd3", "sana", "lumina2")
USUAL = GuidanceOptions()
REQUESTS = [SampleRequest("a red square", 3), SampleRequest("a very large teal circle", 4)]
EVERYWHERE = GuidanceOptions(guidance_interval="0,inf")  # the same as usual, on the way that is ours
STEPS, SCALE = 3, 3.0
KINDS: list[dict[str, Any]] = [
    {"guidance_interval": "0.3,3"},
    {"guidance_rescale": 0.7},
    {"guidance_method": "apg"},
    {"guidance_method": "cfg_zero_star"},
    {"cads_scale": 0.2},
    {"guidance_against": "base"},
    {"guidance_against": "perturbed"},
]
FLOW, UNET = ["perturbed"], ["cfg_zero_star"]
REFUSED = {"sd": UNET, "sdxl": UNET, "sd3": FLOW, "sana": FLOW, "lumina2": [0.7, *UNET, *FLOW]}


class Drawing:
    """A miniature's stock pipeline with an adapter on it that does something."""

    def __init__(self, folder) -> None:
        from pipeline.adapter.options import AdapterOptions

        self.family = registry.detect(folder)
        family = self.family
        self.pipe = family.load(*family.encoders, family.denoiser, "vae", "scheduler")
        self.denoiser = getattr(self.pipe, family.denoiser)
        attach(self.denoiser, AdapterOptions(rank=4), family.targets)
        for name, parameter in self.denoiser.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
        self.embeddings = {prompt: family.embed(self.pipe, prompt) for prompt in (*[r.prompt for r in REQUESTS], None)}
        self.size = max(64, family.size_multiple)

    def sampler(self, guidance: GuidanceOptions, scale: float = SCALE, weaker=None) -> Sampler:
        settings = SampleSettings(scale, STEPS, Size.square(self.size), guidance=guidance)
        encode = self.embeddings.__getitem__
        return Sampler(self.pipe, self.denoiser, encode, settings, family=type(self.family), weaker=weaker)

    def latents(self, guidance: GuidanceOptions = USUAL, scale: float = SCALE, requests=None, **more):
        """What would be decoded, [b c h w]."""
        with self.seen() as seen:
            self.sampler(guidance, scale, **more).draw(requests or REQUESTS)
        return seen[0]

    @contextlib.contextmanager
    def in_plain_diffusers(self, guidance: GuidanceOptions, seed: int):
        """The pipeline as a card's code leaves it; the scale that it has to be called with."""
        exec(snippet.code(guidance, SCALE, seed, type(self.family)), {"pipe": self.pipe, "torch": torch})
        try:
            yield guidance.stock_scale(SCALE)
        finally:
            del self.denoiser.forward

    @contextlib.contextmanager
    def seen(self):
        """Without decoding it, for here nobody looks at pictures."""
        found: list[Tensor] = []

        def watched(latents, *args, **kwargs):
            found.append(latents.clone())
            return (torch.zeros(len(latents), 3, 8, 8),)

        self.pipe.vae.decode = watched
        try:
            yield found
        finally:
            del self.pipe.vae.decode


@pytest.fixture(scope="module")
def drawing(miniature_of) -> Iterator[Callable[[str], Drawing]]:
    made: dict[str, Drawing] = {}
    with pytest.MonkeyPatch.context() as patch:  # Sana's rounds every size to those of its bins, of 512 x 512 and more
        patch.setattr(pipeline_sana, "ASPECT_RATIO_512_BIN", {"1.0": [64.0, 64.0]})
        yield lambda name: made.get(name) or made.setdefault(name, Drawing(miniature_of(name)))


def clashes(drawing: Drawing, guidance: GuidanceOptions) -> list[str]:
    is_flow = drawing.family.path(ObjectiveOptions()).prediction == "flow"
    return guidance_clashes(guidance, drawing.family, is_flow=is_flow)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_changes_nothing_is_the_stock_call_to_the_bit(drawing, name):
    found = drawing(name)
    stock = found.latents()
    neutral = GuidanceOptions(guidance_method="apg", apg_eta=1.0, apg_momentum=0.0)
    for guidance in (EVERYWHERE, neutral):
        assert torch.equal(found.latents(guidance), stock)
    unguided = found.latents(scale=1.0)
    assert not torch.allclose(unguided, stock, atol=1e-3)
    for guidance in (GuidanceOptions(guidance_against="base"), GuidanceOptions(guidance_rescale=0.7)):
        assert torch.equal(found.latents(guidance, scale=1.0), unguided)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_method_that_fits_draws_something_else_for_each_picture_alone(drawing, name):
    found = drawing(name)
    seen, refused = [found.latents()], []
    for kind in KINDS:
        guidance = GuidanceOptions(**kind)
        if clashes(found, guidance):
            refused.append(next(iter(kind.values())))
            continue
        both = found.latents(guidance)
        assert both.isfinite().all()
        assert not any(torch.allclose(both, other, atol=1e-3) for other in seen), kind
        seen.append(both)
        alone = found.latents(guidance, requests=REQUESTS[1:])
        assert torch.allclose(both[1:], alone, atol=1e-3), kind
        with found.in_plain_diffusers(guidance, REQUESTS[1].seed) as scale:
            plain = found.latents(scale=scale, requests=REQUESTS[1:])
            if guidance.guidance_method == "apg":  # which remembers the steps of one picture
                assert torch.equal(found.latents(scale=scale, requests=REQUESTS[1:]), plain)
        assert torch.allclose(plain, alone, atol=1e-4), kind
    assert refused == REFUSED[name]
    assert torch.equal(found.latents(), seen[0])  # nothing stays behind


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_rescaling_is_the_pipelines_own_where_it_has_one(drawing, name):
    found = drawing(name)
    own = type(found.pipe).__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(found.pipe), "__call__", lambda *a, **k: own(*a, **k, guidance_rescale=0.7))
        stock = found.latents()
    assert torch.equal(found.latents(GuidanceOptions(guidance_rescale=0.7)), stock)


@pytest.mark.parametrize(("name", "interval", "rows"), [("sd", "1,3", 8), ("lumina2", "1,3", 8), ("sd", "9,inf", 6)])
def test_outside_the_interval_only_the_caption_is_evaluated(drawing, name, interval, rows):
    """Three steps for two pictures, of which one is guided, or for the last one none."""
    found, counted = drawing(name), []
    hook = found.denoiser.forward
    guidance = GuidanceOptions(guidance_interval=interval)

    def counting(*args, **kwargs):
        counted.append(len(args[0] if args else kwargs["hidden_states"]))
        return hook(*args, **kwargs)

    found.denoiser.forward = counting
    try:
        found.latents(guidance)
    finally:
        del found.denoiser.forward
    assert sum(counted) == rows


@pytest.mark.parametrize("name", ["sd", "lumina2"])
def test_against_the_base_scale_is_between_the_base_and_beyond_the_adapter(drawing, name):
    """At 0 it is the base without guidance, and what is drawn of the base itself is always that."""
    from pipeline.adapter.adapted_models import AdaptedModels

    found, guidance = drawing(name), GuidanceOptions(guidance_against="base")
    adapted = AdaptedModels({found.family.denoiser: found.denoiser})
    with adapted.disabled():
        base = found.latents(scale=1.0)
        assert torch.allclose(found.latents(guidance, scale=2.0), base, atol=1e-4)
    assert torch.allclose(found.latents(guidance, scale=0.0), base, atol=1e-4)
    trained, beyond = found.latents(guidance, scale=1.0), found.latents(guidance, scale=1.5)
    lengths = [float((latents - base).norm()) for latents in (trained, beyond)]
    assert 0.1 < lengths[0] < lengths[1]


def test_a_checkpoint_can_stand_for_the_base(drawing):
    """The adapter at no scale at all is the base."""
    from pipeline.adapter.adapted_models import AdaptedModels

    found, guidance = drawing("sd"), GuidanceOptions(guidance_against="base")
    adapted = AdaptedModels({"unet": found.denoiser})
    against_base = found.latents(guidance, scale=2.0)
    weaker = [found.latents(guidance, scale=2.0, weaker=lambda s=s: adapted.with_scale(s)) for s in (0.0, 1.0)]
    assert torch.allclose(weaker[0], against_base, atol=1e-4)
    assert torch.allclose(weaker[1], found.latents(scale=1.0), atol=1e-4)


def test_the_adapter_is_not_folded_away_where_it_is_switched(drawing):
    from pipeline.adapter import lora
    from pipeline.adapter.adapted_models import AdaptedModels

    found = drawing("sd")
    adapted, layer = AdaptedModels({"unet": found.denoiser}), lora.adapted_layers(found.denoiser)[0]
    with found.sampler(USUAL).folded(adapted):
        assert layer.merged
    with found.sampler(GuidanceOptions(guidance_against="base")).folded(adapted):
        assert not layer.merged


class Recorded:
    """A denoiser that answers with what it is given, times a sign, and remembers its arguments."""

    def __init__(self, sign: int) -> None:
        self.sign, self.calls = sign, []

    def __call__(self, x_t, **conditions):
        self.calls.append(conditions)
        return (
            self.sign * (x_t * conditions["encoder_hidden_states"].mean((1, 2))[:, None, None, None]).sin().roll(1, 2),
        )


def answered(recorded: Recorded, guidance: GuidanceOptions, **traits: bool) -> Tensor:
    """The answer to one call of a pipeline for two pictures, [unconditional; caption]."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    answers = Guided(recorded, scheduler, guidance, 3.0, seeds=[1, 2], traits=Traits(**traits), weaker=None)
    generator = torch.Generator().manual_seed(0)
    states, pooled, sizes = (torch.randn(4, *shape, generator=generator) for shape in ((3, 5), (5,), (6,)))
    more = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}, "timestep": torch.tensor(1000.0)}
    x_t = torch.randn(2, 4, 3, 3, generator=generator).repeat(2, 1, 1, 1)
    return answers(x_t, encoder_hidden_states=states, **more)[0]


def test_a_velocity_of_the_other_sign_is_guided_alike():
    """Away from data or towards it, what is projected is the data."""
    guidance = GuidanceOptions(guidance_method="apg")
    usual, negated = answered(Recorded(1), guidance), answered(Recorded(-1), guidance, negates=True)
    assert torch.allclose(usual, -negated, atol=1e-6)
    assert not torch.allclose(usual, -answered(Recorded(-1), guidance), atol=1e-2)


def test_noise_is_put_into_captions_alone():
    plain, noisy = Recorded(1), Recorded(1)
    answered(plain, EVERYWHERE)
    answered(noisy, GuidanceOptions(cads_scale=0.2))
    (before,), (after,) = plain.calls, noisy.calls
    for name in ("encoder_hidden_states", "text_embeds"):
        first, second = (call.get(name, call["added_cond_kwargs"].get(name)) for call in (before, after))
        assert torch.equal(first[:2], second[:2])
        assert not torch.isclose(first[2:], second[2:]).any()
        over = tuple(range(1, first.ndim))
        assert torch.allclose(first[2:].std(over), second[2:].std(over), atol=1e-4)
    assert torch.equal(before["added_cond_kwargs"]["time_ids"], after["added_cond_kwargs"]["time_ids"])


def test_perturbed_attention_sees_only_its_own_place():
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(0)
    attention = Attention(16, heads=2, dim_head=8)
    states = torch.randn(2, 5, 16)
    found = OnItself()(attention, states)
    one_by_one = torch.cat([attention(states[:, place : place + 1]) for place in range(5)], dim=1)
    assert torch.allclose(found, one_by_one, atol=1e-6)  # a single place has nothing else to look at
    assert not torch.allclose(found, attention(states), atol=1e-2)
