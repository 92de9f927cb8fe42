"""Prompts read otherwise than a pipeline does by itself: in chunks of CLIP's length, and before its last layers."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from pipeline.__main__ import main
from pipeline.adapter.layers import target_modules
from pipeline.adapter.options import AdapterOptions
from pipeline.errors import ConfigError, DataError
from pipeline.families import clip, registry, truncation
from pipeline.families.meta import on_meta
from pipeline.families.options import ModelOptions
from pipeline.sharing import card
from tests.conftest import largest_difference, make_colours, prepared, replaced, small_flags, snippet_of

pytestmark = pytest.mark.contract
FILE = "pytorch_lora_weights.safetensors"
LETTERS = "abcdefghijklmnopqrstuvwxyz"  # miniatures spell: each is a word of one token
LENGTHS = (1, 75, 76, 150, 151)


def words(length: int, first: int = 0) -> str:
    return " ".join(LETTERS[place % 26] for place in range(first, length))


@pytest.fixture(scope="module")
def deep(tmp_path_factory, miniature_of):
    """Bases whose text encoders have four layers, by family."""

    def made(name: str):
        folder = tmp_path_factory.mktemp("deep") / name
        shutil.copytree(miniature_of(name), folder)
        for part in folder.glob("text_encoder*"):
            kind = CLIPTextModelWithProjection if part.name == "text_encoder_2" else CLIPTextModel
            config = kind.config_class.from_pretrained(part)
            config.num_hidden_layers = 4
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                kind(config).save_pretrained(part)
        return folder

    found = {name: made(name) for name in ("sd", "sdxl")}
    return found.__getitem__


def reading(folder, **options):
    return registry.find(ModelOptions(pretrained_model_name_or_path=str(folder), **options), None)


def in_chunks(folder, number, **options):
    return reading(folder, long_prompts="chunks", prompt_chunks=number, **options)


def as_transformers_4_has_it(pipe):
    """For --clip_skip diffusers 0.42 looks for text_model, which transformers 5 has left out of CLIPTextModel."""
    pipe.text_encoder.__dict__["text_model"] = pipe.text_encoder


@torch.no_grad()
@pytest.mark.parametrize("skip", [1, 2])
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_skipped_layers_and_the_null_are_the_stock_pipelines_bit_for_bit(deep, name, skip):
    family = reading(deep(name), clip_skip=skip)
    pipe = family.load(*family.encoders)
    ours, null = family.embed(pipe, "a red square"), family.embed(pipe, None)
    as_transformers_4_has_it(pipe)
    given = {"prompt": ["a red square"], "device": "cpu", "num_images_per_prompt": 1, "clip_skip": skip}
    theirs = pipe.encode_prompt(**given, do_classifier_free_guidance=True)
    assert torch.equal(ours["prompt_embeds"], theirs[0][0])
    assert torch.equal(null["prompt_embeds"], theirs[1][0])
    plain = reading(deep(name))
    assert not torch.equal(ours["prompt_embeds"], plain.embed(pipe, "a red square")["prompt_embeds"])
    if name == "sdxl":
        assert torch.equal(ours["pooled_prompt_embeds"], theirs[2][0])
        assert torch.equal(null["pooled_prompt_embeds"], theirs[3][0])


@torch.no_grad()
@pytest.mark.parametrize("skip", [None, 1])
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_each_chunk_is_read_as_if_it_were_a_prompt_of_its_own(deep, name, skip):
    plain, whole = reading(deep(name), clip_skip=skip), in_chunks(deep(name), 3, clip_skip=skip)
    pipe = plain.load(*plain.encoders)
    for length in LENGTHS:
        text = words(length)
        parts = [plain.embed(pipe, words(min(length, first + 75), first)) for first in (0, 75, 150)]
        found = whole.embed(pipe, text)
        assert torch.equal(found["prompt_embeds"], torch.cat([part["prompt_embeds"] for part in parts]))
        assert all(torch.equal(found[key], parts[0][key]) for key in found if "pooled" in key)
        short = in_chunks(deep(name), 1, clip_skip=skip).embed(pipe, text)
        assert all(torch.equal(short[key], parts[0][key]) for key in short)
    null, nothing = plain.embed(pipe, None), whole.embed(pipe, None)
    assert torch.equal(nothing["prompt_embeds"], null["prompt_embeds"].repeat(3, 1))


@torch.no_grad()
def test_tokens_are_the_tokenizers_own_and_rows_do_not_mix(deep):
    family = in_chunks(deep("sdxl"), 2)
    pipe = family.load(*family.encoders)
    texts = [words(length) for length in LENGTHS]
    for tokenizer in (pipe.tokenizer, pipe.tokenizer_2):
        first = tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        assert torch.equal(clip.tokens_of(tokenizer, texts, 2)[0], first)
    together = family.encode_text(pipe, texts)
    for place in range(len(texts)):
        order = [*range(place, len(texts)), *range(place)]
        alone = family.encode_text(pipe, [texts[number] for number in order])
        assert all(torch.equal(alone[key][0], together[key][place]) for key in together)


def test_embeddings_that_are_read_otherwise_are_kept_apart():
    told = [{}, {"clip_skip": 1}, {"clip_skip": 2}, {"max_sequence_length": 2}]
    told += [{"long_prompts": "chunks", "prompt_chunks": number} for number in (2, 3)]
    told += [{**told[-1], "clip_skip": 1}]
    keys = [ModelOptions(**options).reading_key for options in told]
    assert len({*keys}) == len(keys)
    one = ModelOptions(long_prompts="chunks", prompt_chunks=1)
    assert one.reading_key == keys[0] == ""  # read as ever, so what was kept before these options came is found


def test_as_many_chunks_as_the_longest_takes(miniature):
    family = reading(miniature, long_prompts="chunks")
    assert [truncation.chunks_needed(family, [words(length), "x"]) for length in LENGTHS] == [1, 1, 2, 2, 3]
    assert truncation.chunks_needed(family, []) == truncation.chunks_needed(family, [""]) == 1
    assert not truncation.truncated(family, [words(500)])
    assert truncation.truncated(in_chunks(miniature, 2), [words(150), words(153)]) == {words(153): "u v w"}


def test_letters_of_several_tokens_are_cut_like_words(miniature):
    """CLIP makes two or three tokens of a Chinese letter, so few letters can be too many."""
    family = reading(miniature)
    captions = ["猫在雪地里看着月亮和湖水" * 3, "a cat"]
    (count, few), _ = truncation.token_counts(family, captions)
    assert count > 77 - 2 > len(captions[0]) > few
    assert list(truncation.truncated(family, captions)) == captions[:1]


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_layers_that_are_not_read_are_no_targets(deep, name):
    family = reading(deep(name), clip_skip=2)
    left = {}
    for part, model in on_meta(family, family.trainable_encoders).items():
        if part != family.denoiser:
            chosen = target_modules(model, AdapterOptions(text_encoder_layers="attention"), family.targets_of(part))
            left[part] = {int(target.name.split("layers.")[1][0]) for target in chosen}
    assert left["text_encoder"] == ({0, 1} if name == "sd" else {0})
    assert name == "sd" or left["text_encoder_2"] == {0, 1, 2, 3}


@pytest.mark.parametrize("name", ["sd3", "flux", "lumina2", "sana"])
def test_what_something_else_than_clip_reads_is_refused(miniature_of, name):
    with pytest.raises(ConfigError, match=r"--max_sequence_length, which is \d+") as error:
        reading(miniature_of(name), long_prompts="chunks", clip_skip=1)
    assert f"--clip_skip is for Stable Diffusion and XL, and this is {name}" in str(error.value)
    reading(miniature_of(name), long_prompts="error")


def test_at_least_one_layer_is_read(deep):
    assert reading(deep("sd"), clip_skip=3)
    assert reading(deep("sdxl"), clip_skip=2)
    for name, most in (("sd", 3), ("sdxl", 2)):
        with pytest.raises(ConfigError, match=f"leaves no layer of a text encoder; at most {most}"):
            reading(deep(name), clip_skip=most + 1)


def test_long_prompts_are_refused_with_their_ends(small, colours, tmp_path):
    lines = (colours / "metadata.jsonl").read_text(encoding="utf-8").replace("a red square", words(80))
    (colours / "metadata.jsonl").write_text(lines, encoding="utf-8")
    prepared([*small, "--long_prompts", "truncate"], tmp_path / "out")
    with pytest.raises(DataError, match=r"(?s)2 caption\(s\) or prompt\(s\).*'a b c.*loses 'x y z a b'.*loses 'x y'"):
        prepared([*small, "--long_prompts", "error", "--validation_prompt", words(77)], tmp_path / "out")


@torch.no_grad()
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_the_cards_code_reads_as_the_family(deep, name):
    family = in_chunks(deep(name), 2, clip_skip=1)
    pipe = DiffusionPipeline.from_pretrained(deep(name))
    template = card.template().environment.get_template("in_chunks.md")
    told = {"chunks": 2, "skip": 1, "is_xl": name == "sdxl", "prompt": words(100)}
    space = {"pipe": pipe, "torch": torch}
    exec(compile(template.render(**told), "card", "exec"), space)
    ours, null = family.embed(pipe, words(100)), family.embed(pipe, None)
    torch.testing.assert_close(space["embeds"][0], ours["prompt_embeds"])
    torch.testing.assert_close(space["nothing"][0], null["prompt_embeds"])
    if name == "sdxl":
        torch.testing.assert_close(space["pooled"][0], ours["pooled_prompt_embeds"])
        torch.testing.assert_close(space["pooled_nothing"][0], null["pooled_prompt_embeds"])


CHUNKS = ["--long_prompts", "chunks"]
LIVE = ["--train_text_encoder", "--lora_dropout", "0.1"]


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ([], ("clip_skip=1", "clip_skip=None")),
        (CHUNKS, ("0, 2 * 75, 75", "75, 3 * 75, 75")),
        ([*CHUNKS, *LIVE], ("', 1)", "', 0)")),
    ],
)
def test_a_run_reads_draws_and_is_drawn_so(trainer, deep, tmp_path, monkeypatch, more, wrong):
    """Cached and live; the card's snippet and `sample` draw the preview again, and wrong code another."""
    flags = small_flags(deep("sd"), make_colours(tmp_path / "data"), tmp_path / "cache")
    flags = [*replaced(flags, max_train_steps=2, num_inference_steps=1), "--validation_prompt", words(100)]
    flags += ["--guidance_scale", "40"]  # a miniature hardly minds its prompt
    out = tmp_path / "out"
    ended = trainer(*flags, "--clip_skip", "1", *more, "--output_dir", out)
    assert ended.code == 0, ended.output
    assert "1, as diffusers counts; A1111 and kohya call it 2" in ended.output
    assert ("prompt_chunks = 2" in (out / "run.toml").read_text(encoding="utf-8")) == bool(more)
    assert ("captions cut by the text encoder" in ended.output) == (not more)
    (out / "sd").symlink_to(deep("sd"))
    monkeypatch.chdir(out)
    code = snippet_of((out / "README.md").read_text(encoding="utf-8"))
    exec(compile(code, "card", "exec"), {})
    preview = Image.open(out / "samples" / "step-000002" / "0000.png")
    assert largest_difference(Image.open("picture.png"), preview) <= 1
    asked = ["sample", str(out), "--prompt", words(100), "--to", str(tmp_path / "drawn")]
    assert main(asked) == 0
    assert largest_difference(Image.open(tmp_path / "drawn" / "adapted" / "0000.png"), preview) <= 1
    row = json.loads((tmp_path / "drawn" / "adapted" / "index.json").read_text(encoding="utf-8"))[0]
    assert (row["clip_skip"], row.get("prompt_chunks")) == (1, 2 if more else None)
    said, other = wrong
    assert said in code
    exec(compile(code.replace(said, other), "card", "exec"), {})
    assert largest_difference(Image.open("picture.png"), preview) > 1
