"""What is encoded again, counted at the encoders themselves."""

import collections
import gc
import json
import os
import shutil
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline.data import cache as caches
from pipeline.data import images, views
from pipeline.errors import DataError
from pipeline.families.sd import StableDiffusion
from pipeline.geometry import Size
from pipeline.run.encode import encode, views_to_encode
from tests.conftest import prepared, replaced

pytestmark = pytest.mark.unit


def keys_in(shards):
    """The entries that lie on the disk."""
    return {name.split("/")[0] for path in shards.folder.iterdir() for name in load_file(path)}


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def calls(monkeypatch):
    """Rows that the encoders are given, without those that only fill a batch."""
    counts = collections.Counter()
    encode_image, encode_text = StableDiffusion.encode_image, StableDiffusion.encode_text

    def images(self, pipe, rows):
        counts["image"] += len(rows.flatten(1).unique(dim=0))
        return encode_image(self, pipe, rows)

    def texts(self, pipe, rows):
        counts["text"] += len(set(rows))
        return encode_text(self, pipe, rows)

    monkeypatch.setattr(StableDiffusion, "encode_image", images)
    monkeypatch.setattr(StableDiffusion, "encode_text", texts)
    return counts


def encoded(flags, tmp_path, calls, *more):
    calls.clear()
    command = [*flags, "--center_crop", *map(str, more)]
    encode(prepared(command, tmp_path / "out"))
    return calls["image"], calls["text"]


def test_only_what_changed_is_encoded_again(small, colours, tmp_path, calls, miniature_v):
    assert encoded(small, tmp_path, calls) == (8, 9)  # eight captions and the empty one
    assert encoded(small, tmp_path, calls) == (0, 0)
    for flag in (("--learning_rate", 1), ("--rank", 7), ("--seed", 5), ("--output_dir", tmp_path / "x")):
        flags = list(small)
        if flag[0] in flags:
            at = flags.index(flag[0])
            del flags[at : at + 2]
        assert encoded(flags, tmp_path, calls, *flag) == (0, 0)

    stat = (colours / "red.png").stat()
    pixels = np.asarray(Image.open(colours / "red.png")).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(colours / "red.png")
    os.utime(colours / "red.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert encoded(small, tmp_path, calls) == (1, 0)

    rows = [json.loads(line) for line in (colours / "metadata.jsonl").read_text().splitlines()]
    rows[0]["text"] = "another caption"
    (colours / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert encoded(small, tmp_path, calls) == (0, 1)

    at = small.index("--resolution")
    assert encoded([*small[:at], "--resolution", "32", *small[at + 2 :]], tmp_path, calls) == (8, 0)


def test_a_short_run_encodes_what_its_steps_show(small, tmp_path, calls):
    """Of a hundred thousand pictures a thousand steps show a few; a longer run then adds what it shows beyond that."""
    short = replaced(small, max_train_steps=3, train_batch_size=1)
    assert encoded(short, tmp_path, calls) == (3, 5)  # none, those three, and the one the file is verified with
    context = prepared([*short, "--center_crop"], tmp_path / "out")
    assert context.plan.seen[0].entries.places.tolist() == sorted(
        position.index for step in range(3) for position in context.plan.sampler.step(step)
    )
    assert "3 views and 3 captions" in context.plan.text()
    wrong = encoded([*short, "--guided_target", "contrastive"], tmp_path, calls)
    assert wrong == (0, 4), "any caption may be a wrong one"
    assert encoded(small, tmp_path, calls) == (5, 0)


def test_a_short_run_learns_the_same_whatever_else_is_encoded(small, tmp_path, trainer):
    encode(prepared(replaced(small, cache_dir=tmp_path / "cache after"), tmp_path / "out"))
    short, found = replaced(small, max_train_steps=3, train_batch_size=1, num_validation_images=0), []
    for name in ("alone", "after"):
        ended = trainer(*replaced(short, cache_dir=tmp_path / f"cache {name}"), "--output_dir", tmp_path / name)
        assert ended.code == 0, ended.output
        found.append(load_file(tmp_path / name / "pytorch_lora_weights.safetensors"))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_another_autoencoder_is_another_key(small, miniature, tmp_path, calls):
    encoded(small, tmp_path, calls)
    other = tmp_path / "other"
    shutil.copytree(miniature, other)
    path = other / "vae" / "config.json"
    path.write_text(path.read_text().replace('"scaling_factor": 0.18215', '"scaling_factor": 0.5'))
    flags = [str(other) if word == str(miniature) else word for word in small]
    assert encoded(flags, tmp_path, calls) == (8, 0)


def test_another_variant_is_another_key(small, miniature, tmp_path, calls):
    from diffusers import StableDiffusionPipeline

    StableDiffusionPipeline.from_pretrained(miniature).save_pretrained(tmp_path / "both")
    StableDiffusionPipeline.from_pretrained(miniature).save_pretrained(tmp_path / "both", variant="fp16")
    flags = [str(tmp_path / "both") if word == str(miniature) else word for word in small]
    assert encoded(flags, tmp_path, calls) == (8, 9)
    assert encoded(flags, tmp_path, calls, "--variant", "fp16") == (8, 9)


def test_random_views_are_kept_and_chosen_by_epoch(small, tmp_path, calls):
    command = [*small, "--random_flip", "--cache_variants", "3"]
    context = prepared(command, tmp_path / "out")
    encode(context)
    assert len(keys_in(context.cache.latents)) == 24
    example = context.data.manifest.examples[0]
    chosen = {views.variant_of(example, epoch, 0) for epoch in range(40)}
    assert chosen == {0, 1, 2}
    flips = [
        views.view_of(example, variant, seed=0, size=Size.square(64)).flip
        for example in context.data.manifest.examples
        for variant in range(40)
    ]
    assert 0.4 < sum(flips) / len(flips) < 0.6


def test_latents_that_are_not_finite_name_the_image(small, tmp_path, monkeypatch):
    """All of a batch are named, and the others kept."""
    context, encode_image = prepared([*small, "--center_crop"], tmp_path / "out"), StableDiffusion.encode_image

    def overflowing(self, pipe, rows):
        mean, std = encode_image(self, pipe, rows)
        mean[1, 0, 2, 2], std[4, 0, 0, 0] = float("nan"), float("inf")
        return mean, std

    monkeypatch.setattr(StableDiffusion, "encode_image", overflowing)
    with pytest.raises(DataError) as error:
        encode(context)
    bad = [context.data.manifest.examples[place].name for place in (1, 4)]
    assert str(error.value).startswith(f"{bad[0]}, {bad[1]}: the autoencoder makes non-finite latents")
    left = caches.missing_views(context.cache, views_to_encode(context))
    assert [example.name for example, _ in left] == bad


def test_an_image_is_decoded_once_for_all_its_views(small, tmp_path, monkeypatch):
    context, decode, decoded = prepared([*small, "--random_flip"], tmp_path / "out"), images.decode, []
    monkeypatch.setattr(images, "decode", lambda *given: decoded.append(given) or decode(*given))
    encode(context)
    assert len(decoded) == len(context.data.manifest.examples)
    assert len(keys_in(context.cache.latents)) > 2 * len(decoded)


def test_the_encoders_are_gone_before_training_starts(small, tmp_path, monkeypatch):
    load, encoders = StableDiffusion.load, []

    def watched(self, *parts, **options):
        pipe = load(self, *parts, **options)
        loaded = (getattr(pipe, name) for name in ("text_encoder", "vae") if name in parts)
        encoders.extend(weakref.ref(part) for part in loaded)
        return pipe

    monkeypatch.setattr(StableDiffusion, "load", watched)
    encode(prepared(small, tmp_path / "out"))
    gc.collect()
    assert len(encoders) == 2
    assert not any(encoder() for encoder in encoders)
