"""Every family through the whole program: trained, killed, resumed, exported, drawn with."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline.__main__ import main
from pipeline.data import views
from pipeline.evaluation import results
from pipeline.families import registry
from tests.conftest import (
    COLUMNS,
    largest_difference,
    make_colours,
    make_shapes,
    metrics,
    next_argv,
    prepared,
    replaced,
    small_flags,
    snippet_of,
    status,
)
from tests.running import Running

pytestmark = pytest.mark.contract
FILE = "pytorch_lora_weights.safetensors"


def flags_of(model, folder):
    found = small_flags(model, make_colours(folder / "data"), folder / "cache")
    return [
        *replaced(found, max_train_steps=8, lora_layers="all-linear"),
        "--lora_alpha",
        "6",
        "--rank_pattern",
        "to_k=2",
    ]


@pytest.fixture(params=sorted(registry.NAMES))
def flags(request, miniature_of, tmp_path):
    return flags_of(miniature_of(request.param), tmp_path)


def test_eight_steps_move_every_target_and_a_killed_run_ends_with_the_same_bytes(
    start, trainer, flags, cache, tmp_path
):
    more = ["--random_flip", "--checkpointing_steps", "3", "--validation_split", "0.05", "--validation_steps", "5"]
    more += COLUMNS
    if registry.detect(Path(flags[1])).text_parts:
        more += ["--encoder_dropout", "0.4"]
    shapes = make_shapes(tmp_path / "shapes", 12, in_columns=True)
    flags = replaced(flags, num_validation_images=0, train_data_dir=shapes, cache_dir=cache)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ended = trainer(*flags, *more, "--output_dir", whole)
    assert ended.code == 0, ended.output
    tensors = load_file(whole / FILE)
    still = [name for name, value in tensors.items() if ".lora_B." in name and not value.any()]
    assert still == []
    assert [row in ended.output for row in ("columns ", "encoder dropout ")] == [True, "--encoder_dropout" in more]
    running = start(*flags, *more, "--output_dir", cut)
    running.wait_for_step(cut, 4)
    running.kill()
    assert running.wait().code == -signal.SIGKILL
    ended = trainer(*next_argv(cut))
    assert ended.code == 0, ended.output
    assert (cut / FILE).read_bytes() == (whole / FILE).read_bytes()
    kept = ("step", "loss", "ids", "size", "validation")
    first, second = ([[row.get(name) for name in kept] for row in metrics(out)] for out in (whole, cut))
    assert first == second
    assert len({tuple(row["size"].values()) for row in metrics(whole)}) >= 3


ENCODERS = ["--train_text_encoder", "--text_encoder_lr", "3e-2"]
KINDS = {"dora": ["--use_dora"], "text encoders": ENCODERS, "dora and text encoders": ["--use_dora", *ENCODERS]}
DRAWN = [
    (family.name, "dora and text encoders" if family.trainable_encoders else "dora")
    for family in map(registry.class_of, registry.REGISTRY)
] + [("sdxl", "text encoders")]  # where scale 0 can be asked for
FRESH = """
import json, sys, torch
from diffusers import DiffusionPipeline
for model, out, index, kind in json.load(sys.stdin):
    row = json.load(open(index))[0]
    pipe = DiffusionPipeline.from_pretrained(model)
    def draw():
        return pipe(
            row["prompt"], generator=torch.Generator().manual_seed(row["seed"]), guidance_scale=row["guidance_scale"],
            num_inference_steps=row["num_inference_steps"], height=row["height"], width=row["width"],
        ).images[0]
    draw().save(out + "/fresh-base.png")
    pipe.load_lora_weights(out)
    draw().save(out + "/fresh-adapted.png")
    if "dora" not in kind:  # whose magnitudes stay
        pipe.set_adapters("default_0", 0.0)
        draw().save(out + "/fresh-zero.png")
assert not [name for name in sys.modules if name.split(".")[0] == "pipeline"]
"""


@pytest.fixture(scope="session")
def drawn(shared, miniature_of):
    """Runs with a preview, for every family and kind, and the same pictures by one process of stock diffusers."""

    def make(folder):
        jobs = []
        flags = {name: flags_of(miniature_of(name), folder / name) for name in dict(DRAWN)}  # kinds share their caches
        for name, kind in DRAWN:
            place = folder / f"{name} {kind}"
            place.mkdir()
            words = [*replaced(flags[name], max_train_steps=4, learning_rate="3e-2"), "--center_crop"]
            words += [*KINDS[kind], "--validation_prompt", "a red square"]
            ended = Running([*words, "--output_dir", str(place / "out")], place / "log").wait()
            assert ended.code == 0, (name, kind, ended.output)
            index = place / "out" / "samples" / "step-000004" / "index.json"
            jobs.append([str(miniature_of(name)), str(place / "out"), str(index), kind])
        words = [sys.executable, "-c", FRESH]
        ended = subprocess.run(words, input=json.dumps(jobs), capture_output=True, text=True, check=False, cwd=folder)
        assert ended.returncode == 0, ended.stderr

    return shared("drawn", make)


@pytest.mark.xdist_group("drawn")  # or one worker would wait for the other's runs
@pytest.mark.parametrize(("name", "kind"), DRAWN)
def test_a_fresh_process_of_stock_diffusers_draws_the_previews(drawn, miniature_of, name, kind, tmp_path, monkeypatch):
    """P2, and invariants 5, 6 and 7: text, null and adapter of a preview are those of whoever loads the file.

    So is the picture that the card's own snippet makes.
    """
    out = tmp_path / "out"
    shutil.copytree(drawn / f"{name} {kind}" / "out", out)
    pictures = {which: Image.open(out / f"fresh-{which}.png") for which in ("base", "adapted")}
    assert largest_difference(pictures["base"], Image.open(out / "samples" / "base" / "0000.png")) <= 1
    assert largest_difference(pictures["adapted"], Image.open(out / "samples" / "step-000004" / "0000.png")) <= 1
    assert largest_difference(pictures["base"], pictures["adapted"]) > 3
    assert "dora" in kind or largest_difference(Image.open(out / "fresh-zero.png"), pictures["base"]) == 0
    model = miniature_of(name)
    (out / model.name).symlink_to(model)
    monkeypatch.chdir(out)
    exec(compile(snippet_of((out / "README.md").read_text(encoding="utf-8")), "card", "exec"), {})
    assert largest_difference(Image.open("picture.png"), pictures["adapted"]) <= 1


@pytest.mark.xdist_group("drawn")
@pytest.mark.parametrize(("name", "kind"), DRAWN)
def test_an_evaluation_draws_them_too_and_measures_them(drawn, name, kind, tmp_path):
    out, to = drawn / f"{name} {kind}" / "out", tmp_path / "evaluation"
    row = json.loads((out / "samples" / "step-000004" / "index.json").read_text(encoding="utf-8"))[0]
    captions = [row["prompt"], *(["a blue square"] if name == "sd" else [])]  # how several are counted is no family's
    (tmp_path / "captions.txt").write_text("\n".join(captions), encoding="utf-8")
    words = ["--captions", str(tmp_path / "captions.txt"), "--seed", str(row["seed"]), "--num_images", "2"]
    assert main(["evaluate", str(out), *words, "--to", str(to)]) == 0
    for which in ("base", "adapted"):
        there = Image.open(to / which / "000000.png")
        assert largest_difference(there, Image.open(out / f"fresh-{which}.png")) <= 1
    found = results.read(to)
    assert found.found("change", "within_caption").n == 2 * len(captions)
    assert found.n == len(captions)


def test_cached_is_live(flags, tmp_path):
    """What a batch holds is what the encoders give for the very picture, caption and cut."""
    import io
    import itertools

    from pipeline import rng
    from pipeline.data import images, pixels
    from pipeline.data.sampler import Position
    from pipeline.run import build
    from pipeline.run.encode import captions_at_once, encode, pictures_at_once

    context = prepared([*flags, "--random_flip", "--caption_dropout", "0.5"], tmp_path / "out")
    encode(context)
    (bucket,), cpu = context.plan.buckets, torch.device("cpu")
    examples, family = build.build_examples(context), context.family
    pipe = family.load_encoders()
    shown = context.data.manifest.examples[: captions_at_once(cpu)]
    cuts = [views.view_of(example, views.variant_of(example, 1, 0), seed=0, size=bucket.size) for example in shown]
    squares = [
        pixels.to_pixels(images.decode(io.BytesIO(example.source.content()), "white"), cut)
        for example, cut in zip(shown, cuts, strict=True)
    ]
    batch = [square for square, _ in zip(itertools.cycle(squares), range(pictures_at_once(cpu, bucket.size)))]
    with torch.no_grad():
        means, stds = family.encode_image(pipe, torch.stack(batch))
        texts = family.encode_text(pipe, [example.caption for example in shown])
        null = family.embed(pipe, None)
    for index, (example, cut) in enumerate(zip(shown, cuts, strict=True)):
        row, mean, std = examples[Position(index, 1, bucket.size)], means[index], stds[index]
        dropped = rng.uniform(0, 1, example.id, "caption dropout") < 0.5
        text = null if dropped else {name: value[index] for name, value in texts.items()}
        assert torch.equal(row["latents"], mean + std * rng.normal(0, 1, example.id, "posterior", tuple(mean.shape)))
        size = family.size_states(pixels.geometry_of(example.size, cut))
        assert row["conditions"].keys() == {**text, **size}.keys()
        assert all(torch.equal(row["conditions"][name], value) for name, value in {**text, **size}.items())


def test_a_resume_of_another_family_is_refused(trainer, miniature_of, cache, tmp_path):
    out = tmp_path / "out"
    flags = replaced(
        flags_of(miniature_of("flux"), tmp_path), max_train_steps=2, cache_dir=cache, num_validation_images=0
    )
    assert trainer(*flags, "--output_dir", out).code == 0
    before = (out / FILE).read_bytes(), status(out)
    flags = replaced(flags, pretrained_model_name_or_path=miniature_of("sd"), max_train_steps=4)
    ended = trainer(*flags, "--output_dir", out, "--resume_from_checkpoint", "latest")
    assert ended.code == 2
    assert "another run" in ended.output
    assert "base_model" in ended.output
    assert ((out / FILE).read_bytes(), status(out)) == before
