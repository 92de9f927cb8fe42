"""Every family through the whole program: trained, killed, gone on with, handed over, drawn with."""

import shutil
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline.families import miniature, registry
from tests.conftest import (
    largest_difference,
    make_colours,
    metrics,
    next_argv,
    prepared,
    replaced,
    small_flags,
    snippet_of,
    status,
)

pytestmark = pytest.mark.contract
FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(params=sorted(registry.NAMES))
def flags(request, tmp_path):
    miniature.write(request.param, tmp_path / "model")
    found = small_flags(tmp_path / "model", make_colours(tmp_path / "data"), tmp_path / "cache")
    kind = ["--lora_alpha", "6", "--rank_pattern", "to_k=2", "--lora_layers", "all-linear"]
    return [*replaced(found, max_train_steps=20), *kind]


def test_twenty_steps_move_every_target_and_a_killed_run_ends_with_the_same_bytes(start, trainer, flags, tmp_path):
    more = ["--random_flip", "--checkpointing_steps", "5", "--validation_split", "0.5", "--validation_steps", "10"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ended = trainer(*flags, *more, "--output_dir", whole)
    assert ended.code == 0, ended.output
    tensors = load_file(whole / FILE)
    still = [name for name, value in tensors.items() if ".lora_B." in name and not value.any()]
    assert still == []
    running = start(*flags, *more, "--output_dir", cut)
    running.wait_for_step(cut, 7)
    running.kill()
    assert running.wait().code == -signal.SIGKILL
    ended = trainer(*next_argv(cut))
    assert ended.code == 0, ended.output
    assert (cut / FILE).read_bytes() == (whole / FILE).read_bytes()
    kept = ("step", "loss", "ids", "validation")
    first, second = ([[row.get(name) for name in kept] for row in metrics(out)] for out in (whole, cut))
    assert first == second


FRESH = """
import json, sys, torch
from diffusers import DiffusionPipeline
model, out, index, to = sys.argv[1:]
row = json.load(open(index))[0]
pipe = DiffusionPipeline.from_pretrained(model)
def draw():
    return pipe(
        row["prompt"], generator=torch.Generator().manual_seed(row["seed"]), guidance_scale=row["guidance_scale"],
        num_inference_steps=row["num_inference_steps"], height=row["resolution"], width=row["resolution"],
    ).images[0]
draw().save(to + "/base.png")
pipe.load_lora_weights(out)
draw().save(to + "/tuned.png")
assert not [name for name in sys.modules if name.split(".")[0] == "pipeline"]
"""


@pytest.mark.parametrize("kind", ["dora", "text encoders"])
def test_a_fresh_process_of_stock_diffusers_draws_the_previews(trainer, flags, tmp_path, kind, monkeypatch):
    """P2, and invariants 6 and 7: text, null and adapter of a preview are those of whoever loads the file.

    So is the picture that the card's own snippet makes.
    """
    family, out = registry.detect(tmp_path / "model"), tmp_path / "out"
    if kind == "text encoders" and not family.trainable_encoders:
        return
    more = ["--use_dora"] if kind == "dora" else ["--train_text_encoder", "--text_encoder_lr", "3e-2"]
    words = [*more, "--validation_prompt", "a red square", "--num_validation_images", "1", "--output_dir", out]
    ended = trainer(*replaced(flags, max_train_steps=4, learning_rate="3e-2"), *words)
    assert ended.code == 0, ended.output
    folder = out / "samples" / "step-000004"
    argv = [tmp_path / "model", out, folder / "index.json", tmp_path]
    ended = subprocess.run(
        [sys.executable, "-c", FRESH, *map(str, argv)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    pictures = {name: Image.open(tmp_path / f"{name}.png") for name in ("base", "tuned")}
    assert largest_difference(pictures["base"], Image.open(out / "samples" / "base" / "0000.png")) <= 1
    assert largest_difference(pictures["tuned"], Image.open(folder / "0000.png")) <= 1
    assert largest_difference(pictures["base"], pictures["tuned"]) > 3
    (out / "model").symlink_to(tmp_path / "model")
    monkeypatch.chdir(out)
    exec(compile(snippet_of((out / "README.md").read_text(encoding="utf-8")), "card", "exec"), {})
    assert largest_difference(Image.open("picture.png"), pictures["tuned"]) <= 1


def test_cached_is_live(flags, tmp_path):
    """What a batch holds is what the encoders give for the very picture, caption and cut."""
    import io

    from pipeline import assemble, rng
    from pipeline.data import cache as caches
    from pipeline.data import images, pixels
    from pipeline.data.sampler import Position
    from pipeline.run import encode

    setting = prepared([*flags, "--random_flip", "--caption_dropout", "0.5"], tmp_path / "out")
    encode(setting)
    examples, family = assemble.examples_of(setting), setting.family
    pipe = family.load_encoders()
    for index, example in enumerate(setting.manifest.examples[:4]):
        row = examples[Position(index, 1)]
        variant = caches.variant_of(example, 1, 0, setting.run.data)
        view = caches.view_of(example, variant, 0, 64, setting.run.data)
        square = pixels.to_pixels(images.decode(io.BytesIO(example.source.content()), "white"), view)
        dropped = rng.uniform(0, 1, example.id, "caption dropout") < 0.5
        with torch.no_grad():
            mean, std = (value[0] for value in family.encode_image(pipe, square[None]))
            text = family.encode_text(pipe, None if dropped else example.caption)
        shape = tuple(mean.shape)
        assert torch.equal(row["latents"], mean + std * rng.normal(0, 1, example.id, "posterior", shape))
        size = family.size_states(pixels.geometry_of(example.width, example.height, view))
        assert row["states"].keys() == {**text, **size}.keys()
        assert all(torch.equal(row["states"][name], value) for name, value in {**text, **size}.items())


def test_a_resume_of_another_family_is_refused(trainer, flags, tmp_path):
    out = tmp_path / "out"
    assert trainer(*replaced(flags, max_train_steps=2), "--output_dir", out).code == 0
    other = "sdxl" if registry.detect(tmp_path / "model").name == "sd" else "sd"
    shutil.rmtree(tmp_path / "model")
    miniature.write(other, tmp_path / "model")
    ended = trainer(*replaced(flags, max_train_steps=4), "--output_dir", out, "--resume_from_checkpoint", "latest")
    assert ended.code == 2
    assert status(out)["state"] in ("done", "failed")
    assert "another run" in ended.output
