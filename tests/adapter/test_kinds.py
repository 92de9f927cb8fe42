"""Invariants 5 and 7 for every kind of adapter: the base at the start, and in stock diffusers what it was when live."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file

from pipeline.adapter import dropout, lora, pissa, verify
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.files import writer
from pipeline.adapter.layers import target_modules
from pipeline.adapter.options import AdapterOptions
from pipeline.errors import ConfigError
from pipeline.families.targets import TargetModules
from tests.conftest import attach

pytestmark = pytest.mark.invariant
PATTERNS = {"rank_pattern": "attn2.to_k=8,mid_block.*=2", "alpha_pattern": "to_v=3,attn1.to_v=5"}
WIDE = {"rank": 3, "lora_alpha": 5.0, "lora_layers": "all-linear+conv"}
KINDS = {
    "alpha": {"rank": 4, "lora_alpha": 10.0},
    "patterns": {"rank": 4, "lora_alpha": 6.0, **PATTERNS},
    "patterns, alpha as rank": {"rank": 4, "rank_pattern": "to_q=2"},
    "rslora": {"rank": 4, "lora_alpha": 3.0, "use_rslora": True, **PATTERNS},
    "dora": {"rank": 4, "lora_alpha": 7.0, "use_dora": True, **PATTERNS},
    "dora, convolutions too": {**WIDE, "use_dora": True},
    "convolutions too": {**WIDE, "lora_init": "kaiming"},
    "pissa": {"rank": 4, "lora_alpha": 2.0, "lora_init": "pissa", **PATTERNS},
    "pissa, convolutions too": {**WIDE, "lora_init": "pissa"},
    "dropout": {"rank": 4, "lora_dropout": 0.5},
}


def denoiser_of(family, kind):
    denoiser = family.load("unet").unet.eval()
    generator = torch.Generator().manual_seed(1)
    x_t, states = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 77, 32, generator=generator)
    with torch.no_grad():
        before = denoiser(x_t, torch.tensor([10, 900]), states).sample
    attach(denoiser, AdapterOptions(**KINDS[kind]), family.targets)
    return denoiser, before, lambda model=denoiser: model(x_t, torch.tensor([10, 900]), states).sample


def learn(denoiser):
    """Move every trained weight, as training would."""
    generator = torch.Generator().manual_seed(2)
    for value in lora.parameters(denoiser).values():
        value.data += torch.randn(value.shape, generator=generator) * 0.1


OF_EVERY_KIND = pytest.mark.parametrize("kind", KINDS, scope="module")


@pytest.fixture(scope="module")
def made(family, kind):
    """A denoiser that has learnt, as those who use it leave it; what it predicts, and what base and start did."""
    denoiser, before, predict = denoiser_of(family, kind)
    with torch.no_grad():
        start = predict()
    learn(denoiser)
    return denoiser, before, start, predict


@OF_EVERY_KIND
def test_the_start_is_the_base_and_so_is_switching_off(made, kind):
    denoiser, before, start, predict = made
    with torch.no_grad():
        if "pissa" in kind:  # what it adds is subtracted again, in floating point
            torch.testing.assert_close(start, before, atol=1e-5, rtol=0)
        else:
            assert torch.equal(start, before)
        learnt = predict()
        assert (learnt - before).norm() > 0.01 * before.norm()
        with AdaptedModels({"unet": denoiser}).disabled():
            assert torch.equal(predict(), before)
        with lora.with_scale(denoiser, 0.0):
            assert "dora" in kind or torch.allclose(predict(), before, atol=1e-6)
        with pytest.raises(KeyboardInterrupt), lora.with_scale(denoiser, 1.5):
            raise KeyboardInterrupt
        assert torch.equal(predict(), learnt)


@OF_EVERY_KIND
def test_folded_into_the_weights_it_draws_the_same_and_leaves_them_bit_for_bit(made):
    denoiser, before, _, predict = made
    weights = {name: value.detach().clone() for name, value in denoiser.named_parameters()}
    with torch.no_grad():
        learnt = predict()
        with lora.folded(denoiser):
            assert any(not torch.equal(value, weights[name]) for name, value in denoiser.named_parameters())
            assert (predict() - learnt).norm() <= 1e-4 * (learnt - before).norm()
        with pytest.raises(KeyboardInterrupt), lora.folded(denoiser):
            raise KeyboardInterrupt
        assert torch.equal(predict(), learnt)
    assert all(torch.equal(value, weights[name]) for name, value in denoiser.named_parameters())


def test_half_precision_weights_are_not_folded_into(family):
    denoiser, *_ = denoiser_of(family, "alpha")
    learn(denoiser)
    weights = {name: value.detach().clone() for name, value in denoiser.bfloat16().named_parameters()}
    with lora.folded(denoiser):
        assert all(torch.equal(value, weights[name]) for name, value in denoiser.named_parameters())


@OF_EVERY_KIND
def test_the_file_means_the_same_to_stock_diffusers(family, made, tmp_path):
    denoiser, before, _, predict = made
    file = writer.write(tmp_path, AdaptedModels({"unet": denoiser}), "{}")
    names = set(lora.parameters(denoiser))
    assert verify.verify(file, family, AdaptedModels({"unet": denoiser}), predict=predict, tolerance=1e-3).error < 1e-4
    assert {name for name, value in denoiser.named_parameters() if value.requires_grad} == names
    pipe = StableDiffusionPipeline.from_pretrained(family.source.folder)
    with torch.no_grad():
        live = predict()
        pipe.load_lora_weights(tmp_path)
        loaded = predict(pipe.unet)
    assert (live - loaded).norm() <= 1e-4 * (live - before).norm()


@pytest.mark.parametrize("kind", ["alpha", "dora, convolutions too", "pissa"], scope="module")
def test_what_is_written_are_the_tensors_and_names_that_peft_gives(made):
    denoiser, *_ = made
    for adapter in denoiser.peft_config:
        ours, theirs = lora.state(denoiser, adapter), get_peft_model_state_dict(denoiser, adapter_name=adapter)
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_patterns_decide_rank_and_alpha_of_the_layers_they_name(family):
    denoiser = family.load("unet").unet
    found = {site.name: site for site in target_modules(denoiser, AdapterOptions(**KINDS["patterns"]), family.targets)}
    ranks = {name: site.rank for name, site in found.items()}
    assert {ranks[name] for name in ranks if name.endswith("attn2.to_k") and "mid" not in name} == {8}
    assert {ranks[name] for name in ranks if name.startswith("mid_block")} == {2}
    assert {site.alpha for name, site in found.items() if name.endswith("attn1.to_v")} == {5.0}
    assert {site.alpha for name, site in found.items() if name.endswith("attn2.to_v")} == {3.0}
    assert {site.alpha for name, site in found.items() if name.endswith("to_q")} == {6.0}
    attach(denoiser, AdapterOptions(**KINDS["patterns"]), family.targets)
    scales = lora.scales(denoiser)
    assert scales == {name: pytest.approx(site.scale) for name, site in found.items()}
    weights = lora.parameters(denoiser)
    assert {name.split(".lora_")[0]: len(w) for name, w in weights.items() if ".lora_A." in name} == ranks
    assert sum(site.num_weights for site in found.values()) == sum(value.numel() for value in weights.values())


def test_a_layer_whose_name_ends_another_keeps_its_own_rank():
    """'proj' is also the end of 'inner.proj': each must get what was said of it."""
    model = torch.nn.ModuleDict({"proj": torch.nn.Linear(4, 4), "inner": torch.nn.ModuleDict()})
    model["inner"]["proj"] = torch.nn.Linear(4, 4)
    options = AdapterOptions(lora_layers="proj", rank=2, rank_pattern="inner.proj=3")
    found = {site.name: site.rank for site in target_modules(model, options, TargetModules({}))}
    assert found == {"proj": 2, "inner.proj": 3}
    config = lora._config(target_modules(model, options, TargetModules({})), options)
    inject_adapter_in_model(config, model, adapter_name="default")
    assert model["proj"].r["default"] == 2
    assert model["inner"]["proj"].r["default"] == 3


PRESETS = {
    "attention": {"to_q", "to_k", "to_v", "to_out.0"},
    "attention+mlp": {"to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"},
    "condition_only": {"to_k", "to_v"},
}


def ending(name: str) -> str:
    return next((".".join(name.split(".")[-n:]) for n in (1, 2, 3) if not name.split(".")[-n].isdigit()), name)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_names_these_layers(family, preset):
    denoiser = family.load("unet").unet
    found = target_modules(denoiser, AdapterOptions(lora_layers=preset), family.targets)
    assert {ending(site.name) for site in found} == {e if e != "net.0.proj" else "proj" for e in PRESETS[preset]}
    assert preset != "condition_only" or all(".attn2." in site.name for site in found)


def test_the_presets_by_type_leave_no_layer_out(family):
    denoiser = family.load("unet").unet
    for preset, kinds in (("all-linear", torch.nn.Linear), ("all-linear+conv", torch.nn.Linear | torch.nn.Conv2d)):
        found = {site.name for site in target_modules(denoiser, AdapterOptions(lora_layers=preset), family.targets)}
        assert found == {name for name, module in denoiser.named_modules() if isinstance(module, kinds)}


@pytest.mark.parametrize("flag", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_names_no_adapted_layer_is_an_error(family, flag):
    with pytest.raises(ConfigError, match=rf"--{flag}: conv1, to_z matches no adapted layer"):
        target_modules(family.load("unet").unet, AdapterOptions(**{flag: "to_q=2,conv1=4,to_z=8"}), family.targets)


def test_kaiming_is_within_its_bound_and_another_seed_another_start(family):
    starts = []
    for seed in (0, 1):
        denoiser = family.load("unet").unet
        attach(denoiser, AdapterOptions(rank=4, lora_init="kaiming"), family.targets, seed=seed)
        starts.append(torch.cat([w.flatten() for n, w in lora.parameters(denoiser).items() if "to_q.lora_A" in n]))
    assert not torch.equal(*starts)
    bound = 1 / 16**0.5  # the narrowest layers have 16 inputs
    assert 0.9 * bound < starts[0].abs().max() <= bound


@pytest.mark.parametrize("shape", [(12, 8), (6, 5, 3, 3)])
def test_pissa_begins_at_the_best_approximation_of_the_weight(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    a, b = pissa.principal(weight, 3, 0.5, seed=0)
    u, s, v = torch.linalg.svd(weight.reshape(len(weight), -1), full_matrices=False)
    best = u[:, :3] * s[:3] @ v[:3]
    torch.testing.assert_close(0.5 * b.reshape(len(b), 3) @ a.reshape(3, -1), best, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
def test_what_pissa_begins_at_is_drawn_by_its_seed_alone(shape):
    """As torch.svd_lowrank would with that seed on a CPU, whatever else has drawn and wherever it runs."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        u, s, v = torch.svd_lowrank(weight, q=12, niter=8)
    a, b = pissa.principal(weight, 4, 1.0, seed=3)
    torch.testing.assert_close(b @ a, u[:, :4] * s[:4] @ v[:, :4].T, atol=1e-5, rtol=1e-4)
    torch.manual_seed(5)
    assert torch.equal(a, pissa.principal(weight, 4, 1.0, seed=3)[0])
    other = torch.matmul(*pissa.principal(weight, 4, 1.0, seed=4)[::-1])
    assert (b @ a - other).norm() > 1e-3 * other.norm()


@pytest.mark.parametrize("shape", [(4, 8), (4, 5, 3, 3), (12, 3)])
def test_pissa_at_a_rank_beyond_that_of_the_weight_begins_what_is_left_as_everywhere(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    a, b = pissa.principal(weight, 16, 0.5, seed=0)
    assert (a.shape[1:], b.shape[:2]) == (shape[1:], (shape[0], 16))
    flat = weight.reshape(len(weight), -1)
    torch.testing.assert_close(0.5 * b.reshape(len(b), 16) @ a.reshape(16, -1), flat, atol=1e-4, rtol=1e-3)
    full = min(flat.shape)
    assert b[:, full:].abs().max() == 0
    assert a[full:].std().item() == pytest.approx(1 / 16, rel=0.3)


def test_pissa_is_written_at_twice_its_rank(family, tmp_path):
    denoiser, _, _ = denoiser_of(family, "pissa")
    learn(denoiser)
    tensors = load_file(writer.write(tmp_path, AdaptedModels({"unet": denoiser}), "{}"))
    ranks = {name.split(".lora_")[0]: len(value) for name, value in tensors.items() if ".lora_A." in name}
    assert {ranks[name] for name in ranks if name.startswith("unet.mid_block")} == {4}


def test_dropout_belongs_to_the_examples(family):
    """The same examples in any order and company get the same masks; in evaluation there is none."""
    denoiser, _, _ = denoiser_of(family, "dropout")
    learn(denoiser)
    generator = torch.Generator().manual_seed(3)
    x_t, states = torch.randn(3, 4, 16, 16, generator=generator), torch.randn(3, 77, 32, generator=generator)

    def predict(order: list[int], seeds: list[int]) -> torch.Tensor:
        for layer in dropout.installed(denoiser):
            layer.seeds = torch.tensor(seeds)
        return denoiser(x_t[order], torch.tensor([10, 500, 900])[order], states[order]).sample

    with torch.no_grad():
        evaluated = predict([0, 1, 2], [7, 8, 9])
        denoiser.train()
        together = predict([0, 1, 2], [7, 8, 9])
        assert not torch.allclose(together, evaluated)
        torch.testing.assert_close(predict([2, 0], [9, 7]), together[[2, 0]])
        assert not torch.allclose(predict([0, 1, 2], [1, 2, 3]), together, atol=1e-4)


def test_dora_on_convolutions_takes_dropout_in_half_precision(family):
    denoiser = family.load("unet").unet.to(torch.bfloat16)
    attach(denoiser, AdapterOptions(**WIDE, use_dora=True, lora_dropout=0.5), family.targets)
    denoiser.train()
    for layer in dropout.installed(denoiser):
        layer.seeds = torch.tensor([7])
    x_t, states = torch.randn(1, 4, 16, 16), torch.randn(1, 77, 32)
    denoiser(x_t.bfloat16(), torch.tensor([500]), states.bfloat16()).sample.float().square().mean().backward()
    assert all(value.grad.any() for name, value in lora.parameters(denoiser).items() if ".lora_B." in name)


def test_dropout_leaves_out_its_share_and_keeps_the_mean():
    layer = dropout.ExampleDropout("a", 0.25).train()
    layer.seeds = torch.tensor([1, 2])
    dropped = layer(torch.ones(2, 50_000))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)
    other = dropout.ExampleDropout("b", 0.25).train()
    other.seeds = torch.tensor([1, 2])
    masks = torch.cat([dropped, other(torch.ones(2, 50_000))])  # of two examples in two layers
    alike = torch.corrcoef(torch.cat([masks, masks[:1].roll(1, 1)]))  # and of one of them with its neighbours
    assert (alike - torch.eye(5)).abs().max() < 0.02


@pytest.mark.parametrize(
    ("options", "ratio"),
    [
        ({"lora_init": "kaiming", "use_rslora": True, "lora_alpha": 8.0}, 1.0),  # the one pair that rank leaves alone
        ({"lora_init": "gaussian"}, 0.25),  # alpha as rank: falls with its root
        ({"lora_init": "kaiming"}, 4.0),  # grows with its root
    ],
)
def test_how_far_a_step_goes_depends_on_rank_init_and_scale_as_they_say(options, ratio):
    """Sixteen times the rank at one rate: of Adam's first step, which moves B alone, and each number by the rate."""

    def moved(rank):
        torch.manual_seed(0)
        model = torch.nn.ModuleDict({"proj": torch.nn.Linear(768, 64, bias=False)})
        wanted = AdapterOptions(lora_layers="proj", rank=rank, **options)
        config = lora._config(target_modules(model, wanted, TargetModules({})), wanted)
        inject_adapter_in_model(config, model, adapter_name="default")
        layer = model["proj"]
        a = lora.first_weights("proj", layer.lora_A["default"].weight, wanted, 0)
        signs = torch.randint(2, (64, rank)) * 2.0 - 1
        return (layer.scaling["default"] * signs @ a).norm().item()

    assert moved(64) / moved(4) == pytest.approx(ratio, rel=0.15)
