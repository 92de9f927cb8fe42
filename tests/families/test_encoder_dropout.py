"""Text encoders that read nothing now and then, each by itself: which numbers are whose, how often, cached and live."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from pipeline import conditioning
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.text_encoders import LivePrompts
from pipeline.errors import ConfigError
from pipeline.families import registry
from tests.conftest import make_colours, metrics, prepared, replaced, small_flags
from tests.training.test_guided import moved
from tests.training.test_preservation import gradients, made

pytestmark = pytest.mark.contract
FILE = "pytorch_lora_weights.safetensors"
SEVERAL, ONE = ("sdxl", "sd3", "flux"), ("sd", "lumina2", "sana")
TEXT, OTHER = "a red square", "two blue dogs"
SHARE = 0.464  # of SD3, whose three encoders are all empty in a tenth of the examples then


def test_each_is_drawn_by_itself_and_all_together_as_often_as_that_makes():
    names, number = ("text_encoder", "text_encoder_2", "text_encoder_3"), 4000
    drawn = [conditioning.emptied(7, place % 5, f"id {place}", SHARE, names) for place in range(number)]
    for found, share in (
        *((sum(name in row for row in drawn), SHARE) for name in names),
        (sum(len(row) == 3 for row in drawn), SHARE**3),
        (sum(row == ("text_encoder_2",) for row in drawn), SHARE * (1 - SHARE) ** 2),
        (sum({*row} == {"text_encoder", "text_encoder_3"} for row in drawn), SHARE**2 * (1 - SHARE)),
    ):
        assert abs(found - number * share) < 4 * (number * share * (1 - share)) ** 0.5
    assert drawn == [conditioning.emptied(7, place % 5, f"id {place}", SHARE, names) for place in range(number)]
    assert conditioning.emptied(7, 0, "x", 1.0, names[:2]) == names[:2]
    assert conditioning.emptied(7, 0, "x", 0.0, names) == ()


@torch.no_grad()
@pytest.mark.parametrize("name", SEVERAL)
def test_a_part_is_what_that_encoder_makes_and_nothing_else(miniature_of, name):
    """Bit for bit what the stock pipeline makes of one text for this encoder and another for the others."""
    family = registry.detect(miniature_of(name))
    pipe = family.load(*family.encoders)
    own, other, parts = family.embed(pipe, TEXT), family.embed(pipe, OTHER), family.text_parts
    assert [*parts] == sorted(family.source.text_encoders)
    for place, encoder in enumerate(parts):
        given = [[OTHER if number == place else TEXT] for number in range(len(parts))]
        how = {"max_sequence_length": family.max_sequence_length} if family.reads_to_a_limit else {}
        how |= {"do_classifier_free_guidance": False} if family.supports_cfg else {}
        made = pipe.encode_prompt(*given[: 3 if name == "sd3" else 1], **as_named(name, given), device="cpu", **how)
        embeds, pooled = made[0], made[1] if name == "flux" else made[2]
        found = conditioning.with_parts_of(own, other, [parts[encoder]])
        assert torch.equal(found["prompt_embeds"], embeds[0])
        assert torch.equal(found["pooled_prompt_embeds"], pooled[0])
        assert any(not torch.equal(found[key], own[key]) for key in own)
    whole = conditioning.with_parts_of(own, other, parts.values())
    assert all(torch.equal(whole[key], other[key]) for key in other)


def as_named(name, given):
    return {} if name == "sd3" else {"prompt_2": given[1]}


@pytest.mark.parametrize("name", ONE)
def test_one_encoder_alone_is_dropped_otherwise(miniature_of, colours, cache, tmp_path, name):
    flags = small_flags(miniature_of(name), colours, cache)
    with pytest.raises(ConfigError, match="has one text encoder, which is dropped by --caption_dropout"):
        prepared([*flags, "--encoder_dropout", "0.2"], tmp_path / "out")


def test_rows_of_the_loader_have_the_null_of_inference_where_it_was_drawn(miniature_of, colours, cache, tmp_path):
    from pipeline.run.build import build_examples
    from pipeline.run.encode import encode

    flags = small_flags(miniature_of("sdxl"), colours, cache)
    context = prepared([*flags, "--encoder_dropout", "0.5", "--caption_dropout", "0.2"], tmp_path / "out")
    encode(context)
    examples, seen = build_examples(context), set()
    width, null = 32, examples.unconditional
    for position in (position for step in range(20) for position in context.plan.sampler.step(step)):
        row = examples[position]
        seen.add((row["caption"] is None, row["emptied"]))
        rest = {key: value for key, value in row["conditions"].items() if key != "time_ids"}
        text = null if row["caption"] is None else context.cache.text_of(row["caption"])
        first = null if "text_encoder" in row["emptied"] else text
        second = null if "text_encoder_2" in row["emptied"] else text
        assert torch.equal(rest["prompt_embeds"][:, :width], first["prompt_embeds"][:, :width])
        assert torch.equal(rest["prompt_embeds"][:, width:], second["prompt_embeds"][:, width:])
        assert torch.equal(rest["pooled_prompt_embeds"], second["pooled_prompt_embeds"])
    assert len(seen) == 4  # both, either one, or no caption at all, of which nothing more is left to empty
    assert {emptied for is_dropped, emptied in seen if is_dropped} == {()}
    assert "50% of examples for each of text_encoder, text_encoder_2 by itself; all at once 25.00%" in (
        context.plan.text()
    )


def test_learning_encoders_make_the_same_of_it_and_gradients_go_round_what_is_empty(miniature_of):
    family = registry.detect(miniature_of("sdxl"))
    pipe = family.load(*family.encoders)
    live = LivePrompts(family, pipe, AdaptedModels({"text_encoder": pipe.text_encoder}))
    emptied = ((), ("text_encoder",), (), ("text_encoder", "text_encoder_2"))
    made = live.learning((TEXT, OTHER, None, TEXT), torch.arange(4), emptied)
    with torch.no_grad():
        own, null = {text: family.embed(pipe, text) for text in (TEXT, OTHER)}, family.embed(pipe, None)
    wanted = [
        own[TEXT], conditioning.with_parts_of(own[OTHER], null, [family.text_parts["text_encoder"]]), null, null
    ]  # fmt: skip
    for place, rows in enumerate(wanted):
        for key, value in made.row(place).items():
            torch.testing.assert_close(value, rows[key])
    made["prompt_embeds"][1].square().sum().backward()
    assert pipe.text_encoder.embeddings.token_embedding.weight.grad is None or not (
        pipe.text_encoder.embeddings.token_embedding.weight.grad.any()
    )
    assert pipe.text_encoder_2.text_model.embeddings.token_embedding.weight.grad.any()


def test_what_is_recomputed_has_the_dropout_of_its_own_reading(miniature_of, colours, cache, tmp_path):
    """Encoders read a batch once with its captions and once without, and checkpointing reads again in the backward."""
    flags = [*small_flags(miniature_of("sdxl"), colours, cache), "--train_text_encoder", "--lora_dropout", "0.3"]
    found = []
    for more in ([], ["--gradient_checkpointing"]):
        method, adapted, batch = made([*flags, *more], tmp_path / "out")
        moved(adapted)
        for model in adapted.models.values():
            model.train()
        assert None not in batch.captions
        found.append(gradients(method, adapted, dataclasses.replace(batch, emptied=((), ("text_encoder",)))))
        found.append(gradients(method, adapted, dataclasses.replace(batch, captions=(TEXT, None))))
    torch.testing.assert_close(found[2], found[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[3], found[1], rtol=1e-4, atol=1e-6)


def test_what_no_encoder_read_learns_from_the_data_alone(miniature_of, colours, cache, tmp_path):
    """As an example without its caption: guided, what is learnt without one would lead away from itself."""
    flags = [*small_flags(miniature_of("sdxl"), colours, cache), "--encoder_dropout", "1", "--caption_dropout", "0"]
    learning = ["--guided_target", "cfg", "--guided_target_against", "base"]
    plain, guided = (made([*flags, *more], tmp_path / "out") for more in ([], learning))
    moved(plain[1])
    moved(guided[1])
    torch.testing.assert_close(gradients(*guided)[0], gradients(*plain)[0])


def test_batches_of_any_cut_give_the_same_adapter(trainer, miniature_of, tmp_path, cache):
    """Cached; with encoders that learn, see test_text_encoders."""
    flags = small_flags(miniature_of("sdxl"), make_colours(tmp_path / "data"), cache)
    flags = [*replaced(flags, max_train_steps=2, num_validation_images=0), "--adam_epsilon", "1e-5"]
    flags += ["--encoder_dropout", "0.5"]
    for name, size, rest in (("once", 4, []), ("twice", 2, ["--gradient_accumulation_steps", "2"])):
        ended = trainer(*replaced(flags, train_batch_size=size), *rest, "--output_dir", tmp_path / name)
        assert ended.code == 0, ended.output
    ours, theirs = (load_file(tmp_path / name / FILE) for name in ("once", "twice"))
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-5) for key in theirs)
    losses = [[row["loss"] for row in metrics(tmp_path / name) if "loss" in row] for name in ("once", "twice")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
