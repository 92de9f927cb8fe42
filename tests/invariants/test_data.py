"""Invariant 9: whatever the layout, epoch, resume or cache, a picture meets its own caption or the pipeline's null."""

import json
import pickle
import re

import datasets
import pytest
import torch
from diffusers import StableDiffusionPipeline

from pipeline import rng
from pipeline.conditioning import is_dropped
from pipeline.data import views
from pipeline.data.sampler import Position
from pipeline.geometry import Size
from pipeline.run import build
from pipeline.run.encode import captions_at_once, encode, pictures_at_once
from tests.conftest import COLOURS, metrics, prepared, replaced, small_flags

pytestmark = pytest.mark.invariant


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def with_columns(folder):
    """The eight colours with several captions each and columns of their own."""
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        colour = row["file_name"].removesuffix(".png")
        row |= {"text": [f"a {colour} square", f"something {colour}, plain, flat"], "colour": colour, "kind": "square"}
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


@torch.no_grad()
def test_every_view_and_caption_of_every_epoch_is_what_live_encoding_gives(small, colours, miniature, tmp_path):
    """Invariant 4 too: cached equals live, variant by variant, with random crops, flips, captions and dropout."""
    with_columns(colours)
    flags = [
        *replaced(small, max_train_steps=24),
        "--random_flip",
        "--color_jitter",
        "0.3",
        "--cache_variants",
        "3",
        "--caption_dropout",
        "0.3",
        "--seed",
        "5",
    ]
    flags += ["--shuffle_tags", "--keep_tokens", "1", "--caption_variants", "2"]
    context = prepared(flags, tmp_path / "out")
    encode(context)
    examples = build.build_examples(context)
    pipe = StableDiffusionPipeline.from_pretrained(miniature)
    family = context.family
    (bucket,), cpu = context.plan.buckets, torch.device("cpu")
    size, num_captions = bucket.size, captions_at_once(cpu)
    assert size == Size(72, 56)
    seen = set()
    for epoch in range(6):
        for index, example in enumerate(context.data.manifest.examples):
            row = examples[Position(index, epoch, size)]
            colour = example.name.removesuffix(".png")
            assert all(colour in caption for caption in example.captions)
            caption = views.caption_in(example, epoch, 5, kept=True)
            dropped = is_dropped(5, epoch, example.id, 0.3)
            texts = [""] if dropped else [caption] * num_captions
            states = pipe.encode_prompt(texts, torch.device("cpu"), 1, False)[0][0]
            assert torch.equal(row["conditions"]["prompt_embeds"], states)
            view = views.view_of(example, views.variant_of(example, epoch, 5), seed=5, size=size)
            mean, std = family.encode_image(pipe, torch.stack([pixels_of(example, view)] * pictures_at_once(cpu, size)))
            posterior = rng.normal(5, epoch, example.id, "posterior", tuple(mean.shape[1:]))
            assert torch.equal(row["latents"], mean[0] + std[0] * posterior)
            seen.add((example.id, view, "" if dropped else caption))
    assert len({view for _, view, _ in seen}) > 8  # crops and flips really differ
    assert "" in {caption for _, _, caption in seen}
    assert len({caption for name, _, caption in seen if name == context.data.manifest.examples[0].id}) >= 2


def pixels_of(example, view):
    import numpy as np
    from PIL import Image, ImageEnhance, ImageOps

    picture = Image.open(example.source.path).convert("RGB")  # 80 x 64, in a bucket of 72 x 56
    top = round(2 * view.top)  # so only the upper edge moves
    shown = picture.resize((72, 58), Image.Resampling.LANCZOS).crop((0, top, 72, top + 56))
    for kind, factor in zip(("Brightness", "Contrast", "Color"), view.colours, strict=True):
        shown = getattr(ImageEnhance, kind)(shown).enhance(factor)
    shown = ImageOps.mirror(shown) if view.flip else shown
    return torch.from_numpy(np.array(shown)).permute(2, 0, 1).float() / 127.5 - 1


def test_what_the_loaders_workers_are_given_imports_no_library_of_models(miniature_of, colours, tmp_path):
    """Each starts cold: a model in it, though without weights, cost seconds and 3,000 modules."""
    context = prepared(small_flags(miniature_of("sdxl"), colours, tmp_path / "cache"), tmp_path / "out")
    examples = build.build_examples(context)
    given = pickle.dumps(examples)
    assert not re.findall(rb"diffusers|transformers|peft", given)
    assert pickle.loads(given).size_states is examples.size_states


def test_a_table_and_a_folder_train_the_same_adapter(trainer, small, colours, tmp_path):
    with_columns(colours)
    rows = [json.loads(line) for line in (colours / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    names = sorted(COLOURS)
    features = datasets.Features(
        {"image": datasets.Image(), "colour": datasets.ClassLabel(names=names), "kind": datasets.Value("string")}
    )
    data = [{"image": str(colours / f"{row['colour']}.png"), "colour": row["colour"], "kind": "square"} for row in rows]
    datasets.Dataset.from_list(data, features=features).save_to_disk(tmp_path / "table")
    flags = [*replaced(small, max_train_steps=3), "--caption_template", "a {colour} {kind}", "--trigger_word", "square"]
    ended = trainer(*flags, "--output_dir", tmp_path / "folder")
    assert ended.code == 0, ended.output
    at = flags.index("--train_data_dir")
    flags[at : at + 2] = ["--dataset_name", str(tmp_path / "table")]
    ended = trainer(*flags, "--output_dir", tmp_path / "from-table", "--dataloader_num_workers", "2")
    assert ended.code == 0, ended.output
    files = [tmp_path / name / "pytorch_lora_weights.safetensors" for name in ("folder", "from-table")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert [row["ids"] for row in metrics(tmp_path / "folder")] == [
        row["ids"] for row in metrics(tmp_path / "from-table")
    ]
