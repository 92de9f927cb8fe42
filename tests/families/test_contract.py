"""What every family must satisfy, on a miniature of its real architecture. A new family gets all of it by its name."""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Tensor

from pipeline.adapter import formats, lora, precision, verify
from pipeline.adapter.adapted import Adapted
from pipeline.adapter.layers import PRESETS, sites
from pipeline.adapter.options import AdapterOptions
from pipeline.conditioning import Conditioning, Geometry, stack, whole
from pipeline.families import reading
from pipeline.objective.losses import squared_error
from pipeline.objective.options import ObjectiveOptions
from tests.conftest import attach

pytestmark = pytest.mark.contract
PROMPT, SIDE = "a red square", 64  # pixels


def denoiser_of(family, dtype=torch.float32):
    return getattr(family.load(family.denoiser, dtype=dtype), family.denoiser).eval()


@torch.no_grad()
def conditioning_of(family, *captions, geometry=None) -> Conditioning:
    encoders = family.load_encoders()
    size = family.size_states(geometry or whole(SIDE))
    return stack([{**family.encode_text(encoders, caption), **size} for caption in captions])


def latents(family, pixels=SIDE, count=2, height=None) -> Tensor:
    channels, rows, columns = family.latent_shape(pixels)
    return torch.randn(count, channels, height or rows, columns, generator=torch.Generator().manual_seed(0))


@contextmanager
def listening(model) -> Iterator[list[dict[str, Any]]]:
    """The arguments of every call of a model, by name."""
    names = list(inspect.signature(model.forward).parameters)
    calls: list[dict[str, Any]] = []

    def note(_, args, kwargs):
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        calls.append({**given, **(given.get("added_cond_kwargs") or {})})

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def of_side(pipe) -> dict[str, Any]:
    """What asks for latents of SIDE itself, also where a pipeline would round it to the sizes it was trained at."""
    asked = {"height": SIDE, "width": SIDE, "output_type": "latent"}
    binning = "use_resolution_binning"
    return asked | ({binning: False} if binning in inspect.signature(pipe.__call__).parameters else {})


def tensors_of(call: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in call.items() if isinstance(value, Tensor)}


def test_shape_in_is_shape_out_also_where_not_square(family):
    denoiser, conditioning = denoiser_of(family), conditioning_of(family, PROMPT, None)
    x_t = latents(family, height=family.latent_shape(SIDE)[1] + 4)
    assert x_t.shape[2] != x_t.shape[3]
    assert family.denoise(denoiser, x_t, torch.tensor([0.1, 0.9]), conditioning).shape == x_t.shape


def test_gradients_reach_every_target_and_nothing_else(family):
    denoiser, conditioning = denoiser_of(family), conditioning_of(family, PROMPT, None)
    attach(denoiser, AdapterOptions(rank=2, lora_layers="all-linear"), family.targets)
    prediction = family.denoise(denoiser, latents(family), torch.tensor([0.1, 0.9]), conditioning)
    squared_error(prediction, torch.zeros_like(prediction)).sum().backward()
    for name, value in denoiser.named_parameters():
        assert (value.grad is not None) == (".lora_" in name), name
    assert [n for n, v in lora.parameters(denoiser).items() if ".lora_B." in n and not v.grad.any()] == []


def test_what_is_left_out_gets_no_gradient_by_construction(family):
    """Only such layers may be listed: a layer that could learn would be lost in silence."""
    listed = family.targets.without_gradient
    if not listed:
        return
    denoiser, conditioning = denoiser_of(family), conditioning_of(family, PROMPT, None)
    for name, value in denoiser.named_parameters():
        value.requires_grad_(any(name.startswith(f"{layer}.") for layer in listed))
    prediction = family.denoise(denoiser, latents(family), torch.tensor([0.1, 0.9]), conditioning)
    wanted = [value for value in denoiser.parameters() if value.requires_grad]
    assert len(wanted) >= len(listed)
    if prediction.requires_grad:
        found = torch.autograd.grad(prediction.square().sum(), wanted, allow_unused=True)
        assert not any(value is not None and value.any() for value in found)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_names_layers_and_every_pattern_counts(family, preset):
    denoiser = denoiser_of(family)
    assert sites(denoiser, AdapterOptions(lora_layers=preset), family.targets)
    for pattern in (pattern for word in preset.split("+") for pattern in family.targets.named.get(word, ())):
        assert sites(denoiser, AdapterOptions(lora_layers=pattern), family.targets)


def test_the_adapter_is_float32_over_a_half_precision_base(family):
    denoiser = denoiser_of(family, torch.bfloat16)
    attach(denoiser, AdapterOptions(rank=2), family.targets)
    assert {value.dtype for value in lora.parameters(denoiser).values()} == {torch.float32}
    assert torch.bfloat16 in {value.dtype for name, value in denoiser.named_parameters() if ".lora_" not in name}
    x_t, conditioning = (
        latents(family).bfloat16(),
        conditioning_of(family, PROMPT, None).to(torch.device("cpu"), torch.bfloat16),
    )
    prediction = family.denoise(denoiser, x_t, torch.tensor([0.1, 0.9]), conditioning)
    assert prediction.dtype == torch.bfloat16
    assert prediction.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("use_dora", [False, True])
def test_a_half_precision_base_answers_in_float32_for_a_while(family, use_dora):
    """Bit for bit as if all of it were float32; afterwards it is what it was."""
    denoiser = denoiser_of(family, torch.bfloat16)
    attach(denoiser, AdapterOptions(rank=2, lora_layers="all-linear+conv", use_dora=use_dora), family.targets)
    for value in lora.parameters(denoiser).values():
        value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(0)) / 8)
    asked = latents(family), torch.tensor([0.1, 0.9]), conditioning_of(family, PROMPT, None)
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    with precision.in_float32(denoiser):
        found = family.denoise(denoiser, *asked)
    after = denoiser.state_dict()
    assert {name: value.dtype for name, value in after.items()} == {n: v.dtype for n, v in before.items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    for value in denoiser.parameters():
        value.data = value.data.float()
    assert torch.equal(found, family.denoise(denoiser, *asked))


@torch.no_grad()
def test_a_call_is_the_pipelines_own_and_so_is_the_sign(family, pipe):
    """Text, sizes, time and latents reach the denoiser as in sampling, bit for bit; its answer moves the same way."""
    model, after, before = getattr(pipe, family.denoiser), [], []
    handle = model.register_forward_pre_hook(lambda *_: before.append(copy.deepcopy(pipe.scheduler)))
    with listening(model) as theirs:
        pipe(
            PROMPT,
            **of_side(pipe),
            num_inference_steps=3,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(0),
            callback_on_step_end=lambda _, i, t, kept: after.append(kept["latents"]) or kept,
        )
    handle.remove()
    scheduler = before[0]  # at its first step
    time, count = scheduler.timesteps[0], scheduler.config.num_train_timesteps
    x_1 = latents(family, count=1) * getattr(scheduler, "init_noise_sigma", 1.0)
    x_t = scheduler.scale_model_input(x_1, time) if hasattr(scheduler, "scale_model_input") else x_1
    with listening(model) as ours:
        answer = family.denoise(model, x_t, (time / count)[None].float(), conditioning_of(family, PROMPT))
    first, own = tensors_of(theirs[0]), tensors_of(ours[0])
    assert first.keys() == own.keys()
    for name, value in first.items():
        torch.testing.assert_close(own[name].float().squeeze(), value.float().squeeze(), atol=0, rtol=0, msg=name)
    moved = scheduler.step(answer, time, x_1).prev_sample
    torch.testing.assert_close(moved.flatten().sort()[0], after[0].flatten().sort()[0])  # tokens are packed otherwise


@torch.no_grad()
def test_drawn_times_are_shifted_as_the_sampler_shifts_its_own(family, pipe):
    path = family.path(ObjectiveOptions(weighting_scheme="none"), SIDE)
    if path.prediction != "flow":
        return
    given, asked = [0.9, 0.5, 0.2], of_side(pipe)
    if "sigmas" in inspect.signature(pipe.scheduler.set_timesteps).parameters:
        asked["sigmas"] = given
    else:  # it chooses its own; these are the same without the shift
        plain = pipe.scheduler.from_config(pipe.scheduler.config, flow_shift=1.0)
        plain.set_timesteps(3)
        given = plain.sigmas[:3].tolist()
    pipe(PROMPT, **asked, num_inference_steps=3)
    torch.testing.assert_close(path.time(torch.tensor(given, dtype=torch.float64)), pipe.scheduler.sigmas[:3])
    own = family.path(ObjectiveOptions(weighting_scheme="none", timestep_shift=1.0), SIDE)
    assert torch.equal(own.time(torch.tensor(given)), torch.tensor(given))


@torch.no_grad()
def test_conditions_and_the_null_are_the_pipelines_bit_for_bit(family, pipe):
    model = getattr(pipe, family.denoiser)
    with listening(model) as theirs:
        pipe(PROMPT, **of_side(pipe), num_inference_steps=1)
    seen = [tensors_of(call) for call in theirs]
    for caption in (PROMPT, None) if family.uses_null else (PROMPT,):
        with listening(model) as ours:
            family.denoise(model, latents(family, count=1), torch.tensor([0.5]), conditioning_of(family, caption))
        own = tensors_of(ours[0])
        text = [name for name in own if any(word in name for word in ("encoder_", "pooled", "text_embeds"))]
        assert text
        for name in text:
            rows = [row for call in seen for row in call[name]]
            assert any(torch.equal(own[name][0], row) for row in rows), (caption, name)
    assert family.uses_null == (len({tuple(row.flatten().tolist()) for row in rows_seen(seen)}) > 1)


def rows_seen(seen: list[dict[str, Tensor]]) -> list[Tensor]:
    return [row for call in seen for row in call["encoder_hidden_states"]]


@torch.no_grad()
def test_latents_round_trip_in_the_units_the_sampler_decodes(family, pipe):
    pixels = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = family.encode_image(family.load_encoders(), pixels)
    encoded = pipe.vae.encode(pixels)
    shift = pipe.vae.config.get("shift_factor") or 0.0
    if "latent_dist" in encoded:
        own_mean, own_std = encoded.latent_dist.mean, encoded.latent_dist.std
    else:  # no posterior
        own_mean, own_std = encoded.latent, torch.zeros_like(encoded.latent)
    torch.testing.assert_close(mean / pipe.vae.config.scaling_factor + shift, own_mean)
    torch.testing.assert_close(std / pipe.vae.config.scaling_factor, own_std)
    assert mean.shape[1:] == family.latent_shape(SIDE)


def test_a_loss_is_the_schedulers_own_maths(family, pipe):
    path = family.path(ObjectiveOptions(), SIDE)
    x_0, noise = latents(family, count=6), torch.randn(latents(family, count=6).shape)
    t = path.time(torch.tensor([0.0, 0.1, 0.37, 0.5, 0.9, 0.999], dtype=torch.float64))
    noised = path.noise(x_0, noise, t)
    count = pipe.scheduler.config.num_train_timesteps
    if path.prediction == "flow":
        scheduler = pipe.scheduler.from_config(pipe.scheduler.config)
        scheduler.sigmas, scheduler.timesteps = t, t * count
        only_flow = hasattr(scheduler, "scale_noise")
        theirs = (
            scheduler.scale_noise(x_0, t * count, noise) if only_flow else scheduler.add_noise(x_0, noise, t * count)
        )
        target = noise - x_0
    else:
        scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        index = (t * count).round().long()
        theirs, target = scheduler.add_noise(x_0, noise, index), noise
    torch.testing.assert_close(noised.x_t, theirs)
    assert torch.equal(noised.target, target)


def test_a_zero_adapter_is_the_base_and_the_file_in_stock_diffusers_is_the_trained_one(family, tmp_path):
    denoiser, conditioning = denoiser_of(family), conditioning_of(family, PROMPT, None)
    x_t, t = latents(family), torch.tensor([0.1, 0.9])

    def predict(model=denoiser) -> Tensor:
        with torch.no_grad():
            return family.denoise(model, x_t, t, conditioning)

    before = predict()
    kind = {"lora_alpha": 6.0, "lora_layers": "all-linear+conv", "rank_pattern": "to_k=3", "use_dora": True}
    attach(denoiser, AdapterOptions(rank=2, **kind), family.targets)
    assert torch.equal(predict(), before)
    generator = torch.Generator().manual_seed(1)
    for value in lora.parameters(denoiser).values():
        value.data += torch.randn(value.shape, generator=generator) * 0.1
    file = formats.write(tmp_path, Adapted({family.denoiser: denoiser}), "{}")
    assert verify.verify(file, family, Adapted({family.denoiser: denoiser}), predict, 1e-3).distance < 1e-4
    stock = DiffusionPipeline.from_pretrained(family.folder)
    stock.load_lora_weights(tmp_path, weight_name=file.name)
    live, loaded = predict(), predict(getattr(stock, family.denoiser))
    assert (live - loaded).norm() <= 1e-4 * (live - before).norm()


def test_the_native_size_is_the_checkpoints(family, pipe):
    side = getattr(pipe, family.denoiser).config.get("sample_size") or pipe.default_sample_size
    assert family.native_pixels == side * pipe.vae_scale_factor
    assert family.native_pixels % family.size_multiple == 0


def test_a_long_caption_is_said_to_be_cut_and_how(family):
    short, long = "a fox", "a fox " * 300 + "in a hat"
    lost = reading.truncated(family, [short, long])
    assert list(lost) == [long]
    assert lost[long].replace(" ", "").endswith("inahat")


@torch.no_grad()
def test_a_caption_is_said_to_be_cut_where_the_encoder_stops_reading(family):
    """The longest caption that is not said to be cut is read to its last letter, and of a longer one no more is."""
    captions = ["x" * number for number in range(1, 700)]  # miniatures spell: a letter is a token
    lost = reading.truncated(family, captions)
    longest = max(len(caption) for caption in captions if caption not in lost)
    assert lost["x" * (longest + 3)] == "xxx"
    pipe = family.load_encoders()
    shorter, whole, cut, longer = (family.encode_text(pipe, "x" * (longest + more)) for more in (-1, 0, 1, 4))
    assert any(not torch.equal(shorter[name], whole[name]) for name in whole)
    assert all(torch.equal(longer[name], cut[name]) for name in cut)


def test_sizes_are_told_as_height_then_width():
    from pipeline.families.sdxl import StableDiffusionXL

    told = StableDiffusionXL.size_states(None, Geometry(80, 100, 3, 5, 64, 48))
    assert told["time_ids"].tolist() == [80, 100, 3, 5, 64, 48]
