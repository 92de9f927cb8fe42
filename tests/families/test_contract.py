"""What every family must satisfy, on a miniature of its real architecture. A new family gets all of it by its name."""

import copy

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from pipeline.adapter import lora, precision, verify
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.files import writer
from pipeline.adapter.layers import PRESETS, target_modules
from pipeline.adapter.options import AdapterOptions
from pipeline.families import truncation
from pipeline.geometry import Geometry, Size
from pipeline.objective.losses import squared_error
from tests.conftest import attach
from tests.families.asked import PROMPT, SIDE, conditioning_of, denoiser_of, latents, listening, of_side, tensors_of

pytestmark = pytest.mark.contract


def test_shape_in_is_shape_out_also_where_not_square(family):
    denoiser, conditioning = denoiser_of(family), conditioning_of(family, PROMPT, None)
    x_t = latents(family, height=family.latent_shape(Size.square(SIDE))[1] + 4)
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
    denoiser, conditioning = denoiser_of(family), conditioning_of(family, PROMPT, None)
    linear = {name for name, module in denoiser.named_modules() if isinstance(module, torch.nn.Linear)}
    chosen = target_modules(denoiser, AdapterOptions(lora_layers="all-linear"), family.targets)
    assert linear - {target.name for target in chosen} == {*listed}
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
    assert target_modules(denoiser, AdapterOptions(lora_layers=preset), family.targets)
    for pattern in (pattern for word in preset.split("+") for pattern in family.targets.named.get(word, ())):
        assert target_modules(denoiser, AdapterOptions(lora_layers=pattern), family.targets)


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
def test_conditions_and_the_null_are_the_pipelines_bit_for_bit(family, pipe):
    model = getattr(pipe, family.denoiser)
    with listening(model) as theirs:
        pipe(PROMPT, **of_side(pipe), num_inference_steps=1)
    seen = [tensors_of(call) for call in theirs]
    for caption in (PROMPT, None) if family.supports_cfg else (PROMPT,):
        with listening(model) as ours:
            family.denoise(model, latents(family, count=1), torch.tensor([0.5]), conditioning_of(family, caption))
        own = tensors_of(ours[0])
        text = [name for name in own if any(word in name for word in ("encoder_", "pooled", "text_embeds"))]
        assert text
        for name in text:
            rows = [row for call in seen for row in call[name]]
            assert any(torch.equal(own[name][0], row) for row in rows), (caption, name)
    assert family.supports_cfg == (len({tuple(row.flatten().tolist()) for row in rows_seen(seen)}) > 1)


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
    assert mean.shape[1:] == family.latent_shape(Size.square(SIDE))


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
    file = writer.write(tmp_path, AdaptedModels({family.denoiser: denoiser}), "{}")
    assert (
        verify.verify(file, family, AdaptedModels({family.denoiser: denoiser}), predict=predict, tolerance=1e-3).error
        < 1e-4
    )
    stock = DiffusionPipeline.from_pretrained(family.source.folder)
    stock.load_lora_weights(tmp_path, weight_name=file.name)
    live, loaded = predict(), predict(getattr(stock, family.denoiser))
    assert (live - loaded).norm() <= 1e-4 * (live - before).norm()


def test_the_native_size_is_the_checkpoints(family, pipe):
    side = getattr(pipe, family.denoiser).config.get("sample_size") or pipe.default_sample_size
    assert family.native_size.width == side * pipe.vae_scale_factor
    assert family.native_size.width % family.size_multiple == 0


def test_a_long_caption_is_said_to_be_cut_and_how(family):
    short, long = "a fox", "a fox " * 300 + "in a hat"
    lost = truncation.truncated(family, [short, long])
    assert list(lost) == [long]
    assert lost[long].replace(" ", "").endswith("inahat")


@torch.no_grad()
def test_a_caption_is_said_to_be_cut_where_the_encoder_stops_reading(family):
    """The longest caption that is not said to be cut is read to its last letter, and of a longer one no more is."""
    captions = ["x" * number for number in range(1, 700)]  # miniatures spell: a letter is a token
    lost = truncation.truncated(family, captions)
    longest = max(len(caption) for caption in captions if caption not in lost)
    assert lost["x" * (longest + 3)] == "xxx"
    pipe = family.load_encoders()
    shorter, whole, cut, longer = (family.embed(pipe, "x" * (longest + more)) for more in (-1, 0, 1, 4))
    assert any(not torch.equal(shorter[name], whole[name]) for name in whole)
    assert all(torch.equal(longer[name], cut[name]) for name in cut)


def test_sizes_are_told_as_height_then_width():
    from pipeline.families.sdxl import StableDiffusionXL

    told = StableDiffusionXL.size_states(Geometry(Size(100, 80), 3, 5, Size(48, 64)))
    assert told["time_ids"].tolist() == [80, 100, 3, 5, 64, 48]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_encoded_does_not_depend_on_its_neighbours(family, dtype):
    """Bit for bit, or an encoding that was killed and goes on with what is missing would end in another adapter."""
    pipe, generator = family.load_encoders(dtype), torch.Generator().manual_seed(0)
    pictures = torch.rand(20, 3, 32, 32, generator=generator) * 2 - 1
    captions = [f"{'red ' * (number % 7)}square {number}" for number in range(20)]
    looked_at, read = [], []
    for place, others in ((0, [7] * 15), (15, [*range(15)])):
        order = [*others[:place], 7, *others[place:]]
        looked_at.append([value[place] for value in family.encode_image(pipe, pictures[order])])
        few, place = order[place // 4 * 4 :][:4], place % 4  # captions go in fours
        read.append([value[place] for value in family.encode_text(pipe, [captions[number] for number in few]).values()])
    for rows in (looked_at, read):
        assert all(torch.equal(one, other) for row in rows[1:] for one, other in zip(rows[0], row, strict=True))


def test_of_several_text_encoders_each_has_its_part(family):
    assert [*family.text_parts] == (sorted(found) if len(found := family.source.text_encoders) > 1 else [])


def test_what_is_told_its_guidance_takes_it(family):
    assert family.is_told_guidance == bool(family.part_config(family.denoiser).get("guidance_embeds"))
