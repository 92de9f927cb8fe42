"""Prior preservation: pictures of a class, given or drawn by the base once, weighed, and some only measured."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.__main__ import main
from pipeline.adapter.streamed import is_streamed
from pipeline.data import class_images, views
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.data.sampler import Position
from pipeline.data.split import rank_of
from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.sample import Sampler, SampleRequest
from pipeline.families import registry
from pipeline.objective.losses import squared_error
from pipeline.run import build, draw_class
from pipeline.run.draw_class import with_drawn_class
from pipeline.run.encode import encode
from tests.audit.flaws import picture
from tests.conftest import dedupe, metrics, prepared, replaced, small_flags

pytestmark = pytest.mark.invariant
FILE = "pytorch_lora_weights.safetensors"
PRIOR = ["--with_prior_preservation", "--class_prompt", "a square", "--num_class_images", "20"]


@pytest.fixture
def own(small, tmp_path):
    """A small run with a cache of its own and the pictures of one subject."""
    return replaced(small, cache_dir=tmp_path / "cache", num_validation_images=0, max_train_steps=6)


def drawn_in(tmp_path):
    return sorted((tmp_path / "cache" / "encoded" / "class").rglob("*.png"))


def test_as_many_of_both_are_shown_and_none_of_the_measured_is_trained_on(own, tmp_path):
    context = with_drawn_class(prepared([*own, *PRIOR], tmp_path / "out"))
    data, shown = context.data, context.data.shown.examples
    assert len(drawn_in(tmp_path)) == 20
    assert (len(data.class_images.trained), len(data.class_measured)) == (16, 4)
    assert sum(example.is_class for example in shown) == 16 == sum(not example.is_class for example in shown)
    assert {e.image_id for e in data.class_measured}.isdisjoint(e.image_id for e in shown)
    assert sorted(e.image_id for e in data.class_measured) == sorted(
        sorted((e.image_id for e in (*data.class_images.trained, *data.class_measured)), key=rank_of)[:4]
    )
    assert {example.caption for example in shown if example.is_class} == {"a square"}
    assert len({example.id for example in shown}) == 32
    assert {example.copy for example in shown if not example.is_class} == {0, 1}
    planned = prepared([*own, *PRIOR], tmp_path / "out").plan
    assert planned.text() == context.plan.text()
    assert (
        "20 images (20 drawn by the base, 'a square'), 4 of them measured and not trained on; 16 of 32 examples of an "
        "epoch, their loss with weight 1" in planned.text()
    )


def test_the_base_draws_them_once_and_in_any_batch_the_same(own, tmp_path, monkeypatch, trainer):
    context = prepared([*own, *PRIOR], tmp_path / "out")
    found = with_drawn_class(context)
    before = {path.name: path.read_bytes() for path in drawn_in(tmp_path)}
    pipe = draw_class.sampler_of(context, draw_class.settings_of(context))
    requests = [SampleRequest("a square", seed) for seed in range(16)]
    for path, picture_of_base in zip(drawn_in(tmp_path), pipe.draw(requests), strict=False):
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(picture_of_base))
    spared = prepared([*own, *PRIOR, "--base_quantization", "int8"], tmp_path / "spared")
    settings = draw_class.settings_of(spared)
    assert draw_class.folder_of(spared, settings) == drawn_in(tmp_path)[0].parent
    sampler = draw_class.sampler_of(spared, settings)
    assert is_streamed(sampler.denoiser)  # the whole base, on a device that may not hold it
    for path, picture_of_base in zip(drawn_in(tmp_path), sampler.draw(requests), strict=False):
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(picture_of_base))
    drawn, draw = [], Sampler.draw
    monkeypatch.setattr(Sampler, "draw", lambda self, requests: drawn.append(1) or draw(self, requests))
    assert with_drawn_class(context).data.shown.fingerprint == found.data.shown.fingerprint
    assert not drawn
    for number in (3, 17):
        drawn_in(tmp_path)[number].unlink()
    assert with_drawn_class(context).data.shown.fingerprint == found.data.shown.fingerprint
    assert {path.name: path.read_bytes() for path in drawn_in(tmp_path)} == before
    assert len(drawn) == 2
    other = prepared([*own, *PRIOR[:2], "a circle", *PRIOR[3:]], tmp_path / "out")
    assert draw_class.folder_of(other, draw_class.settings_of(other)) != drawn_in(tmp_path)[0].parent


def test_the_base_is_guided_as_ever_where_the_adapter_learns_guidance(own, tmp_path):
    """Previews take what is left of the guidance, for theirs multiplies with what is learnt; the base learnt none."""
    learning = prepared([*own, *PRIOR, "--guided_target", "cfg", "--guided_target_scale", "3"], tmp_path / "out")
    usual = draw_class.settings_of(prepared([*own, *PRIOR], tmp_path / "out"))
    assert learning.run.preview.guidance < usual.guidance_scale
    assert draw_class.settings_of(learning) == usual


@pytest.mark.parametrize("name", sorted(registry.NAMES))
def test_every_family_draws_its_class(name, miniature_of, colours, tmp_path):
    flags = replaced(small_flags(miniature_of(name), colours, tmp_path / "cache"), num_inference_steps=1)
    flags += [*PRIOR[:-1], "2"]
    context = with_drawn_class(prepared(flags, tmp_path / "out"))
    shown = [Image.open(path) for path in drawn_in(tmp_path)]
    assert [picture.size for picture in shown] == [(context.plan.size.width, context.plan.size.height)] * 2
    assert np.asarray(shown[0]).std() > 0
    assert not np.array_equal(np.asarray(shown[0]), np.asarray(shown[1]))


@pytest.mark.parametrize("weight", [1.0, 0.25, 0.0])
def test_the_loss_is_that_of_the_subject_and_so_much_of_the_class(own, cache, tmp_path, weight):
    flags = [*replaced(own, cache_dir=cache), *PRIOR, "--prior_loss_weight", str(weight)]
    flags += ["--snr_gamma", "5", "--caption_dropout", "0"]
    context = with_drawn_class(prepared(flags, tmp_path / "out"))
    encode(context)
    models = build.load_models(context)
    task = build.build_task(context, models, build.build_state(context, models))
    places = {
        context.data.shown.examples[entry.index].is_class: (entry.index, bucket.size)
        for bucket in context.plan.seen
        for entry in bucket.entries
    }
    assert places.keys() == {True, False}
    for is_class, (index, size) in places.items():
        batch = task.examples.collate([task.examples[Position(index, 0, size)]])
        path, denoiser = context.path, models.denoiser
        sample = path.sample(batch.latents, batch.noise, path.time(batch.u, denoiser.num_tokens(batch.latents)))
        with torch.no_grad():
            error = squared_error(denoiser(sample.x_t, sample.t, batch.conditioning), sample.target)
            wanted = (weight if is_class else 1.0) * task.method.objective.weighting(sample.log_snr) * error
            torch.testing.assert_close(task.method(batch, torch.device("cpu")), wanted)


def test_a_run_resumes_exactly_draws_nothing_again_and_tells_of_its_class(own, tmp_path, trainer):
    flags = [*replaced(own, max_train_steps=4), *PRIOR, "--prior_loss_weight", "0.5"]
    flags += ["--checkpointing_steps", "2", "--validation_steps", "2"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    dry = trainer(*flags, "--output_dir", whole, "--dry_run")
    assert dry.code == 0, dry.output
    assert not drawn_in(tmp_path)
    first = trainer(*flags, "--output_dir", whole)
    assert first.code == 0, first.output
    assert "Drawing images of the class: 'a square', 20 in all" in first.output
    again = trainer(*flags, "--output_dir", cut, "--resume_from_checkpoint", whole / "checkpoint-2")
    assert again.code == 0, again.output
    assert "Drawing images of the class" not in again.output
    assert (cut / FILE).read_bytes() == (whole / FILE).read_bytes()
    rows = metrics(whole)
    assert [row["step"] for row in rows if "of_class" in row] == [2, 4]
    assert sum(name.startswith("class-") for row in rows for name in row["ids"]) > 0
    told = json.loads((whole / "result.json").read_text(encoding="utf-8"))["data"]
    assert (told["examples"], told["captions"], sum(told["sizes"].values())) == (8, 8, 8), "of the subject's pictures"
    card = (whole / "README.md").read_text(encoding="utf-8")
    assert "Beside them 16 pictures of their class were shown as often, 16 of these drawn by the base model." in card
    assert "| weight of its class's pictures | 0.5 |" in card
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert "Did its class stay what it was?" in page
    assert "Beside them 16 pictures of the class" in page
    assert "On 4 pictures of the class (&#39;a square&#39;) that were not trained on" in page
    other = trainer(*flags, "--prior_loss_weight=1", "--output_dir", tmp_path / "x", "--dry_run")
    assert other.code == 2


def test_two_processes_draw_and_train_what_one_does(own, tmp_path, trainer, world):
    flags = dedupe([*replaced(own, max_train_steps=2), *PRIOR, "--num_class_images", "36"])
    two, one = tmp_path / "two", tmp_path / "one"
    first, second = world(2, *flags, "--output_dir", two)
    assert (first.code, second.code) == (0, 0), first.output + second.output
    pictures = {path.name: path.read_bytes() for path in drawn_in(tmp_path)}
    shutil.rmtree(tmp_path / "cache")
    assert trainer(*flags, "--gradient_accumulation_steps", "2", "--output_dir", one).code == 0
    assert {path.name: path.read_bytes() for path in drawn_in(tmp_path)} == pictures
    assert (two / FILE).read_bytes() == (one / FILE).read_bytes()


def test_given_pictures_are_only_measured_where_nothing_else_is_asked_for(own, tmp_path, trainer):
    (tmp_path / "dogs").mkdir()
    for number in range(6):
        picture(number).save(tmp_path / "dogs" / f"{number}.png")
    flags = [*replaced(own, max_train_steps=3), "--validation_steps", "1"]
    measured = ["--class_data_dir", tmp_path / "dogs", "--class_prompt", "a dog"]
    with_it, without = tmp_path / "with", tmp_path / "without"
    assert trainer(*flags, "--output_dir", without).code == 0
    ended = trainer(*flags, *measured, "--output_dir", with_it)
    assert ended.code == 0, ended.output
    assert "6 of them measured and none trained on (--with_prior_preservation does that)" in ended.output
    assert (with_it / FILE).read_bytes() == (without / FILE).read_bytes()
    rows = [row["of_class"] for row in metrics(with_it) if "of_class" in row]
    assert len(rows) == 3
    assert all(row["change"]["value"] == pytest.approx(row["loss"] - row["base"], abs=1e-6) for row in rows)


def test_given_and_drawn_make_up_the_number(own, tmp_path):
    (tmp_path / "dogs").mkdir()
    for number in range(6):
        picture(number).save(tmp_path / "dogs" / f"{number}.png")
        (tmp_path / "dogs" / f"{number}.txt").write_text(f"dog {number}")
    context = with_drawn_class(prepared([*own, *PRIOR, "--class_data_dir", str(tmp_path / "dogs")], tmp_path / "out"))
    found = context.data.class_images
    assert (found.num_given, found.num_drawn, len(drawn_in(tmp_path))) == (6, 14, 14)
    captions = {example.caption for example in (*found.trained, *found.measured)}
    assert captions == {"a square", *(f"dog {number}" for number in range(6))}
    options = dataclasses.replace(context.run.data, num_class_images=5)
    assert len(class_images.read_given(options).examples) == 5
    assert class_images.num_to_draw(options, class_images.read_given(options)) == 0


def test_pictures_of_the_dataset_are_none_of_the_class(own, colours, tmp_path):
    shutil.copytree(colours, tmp_path / "class")
    flags = [*own, "--class_data_dir", str(tmp_path / "class"), "--with_prior_preservation"]
    for more in (["--validation_split", "0.5"], ["--max_train_samples", "2"]):
        with pytest.raises(DataError, match="holds 8 pictures that are the dataset's or the test set's own") as error:
            prepared([*flags, *more], tmp_path / "out")
        assert "which is in the dataset" in str(error.value)
    assert main(["check", str(colours), *flags[:2], *flags[4:], "--validation_split", "0"]) == 2


def test_captions_and_masks_of_the_class_are_read_as_the_options_say(own, tmp_path):
    folder = tmp_path / "dogs"
    folder.mkdir()
    for number in range(4):
        picture(number).save(folder / f"{number}.png")
        picture(9).convert("L").save(folder / f"{number}.mask.png")
        (folder / f"{number}.cap").write_text(f"dog {number}\nasleep")
    flags = ["--class_data_dir", str(folder), "--caption_extension", "cap", "--caption_lines", "separate"]
    context = prepared([*own, *flags, "--masked_loss"], tmp_path / "out")
    assert len(context.data.class_measured) == 4
    assert {example.captions for example in context.data.class_measured} == {(f"dog {n}", "asleep") for n in range(4)}
    assert all(example.mask is not None for example in context.data.class_measured)
    for path in folder.glob("*.cap"):
        path.unlink()
    context = prepared([*own, *flags, "--masked_loss", "--class_prompt", "a dog"], tmp_path / "out")
    assert any(note.startswith("class: images whose caption is --class_prompt") for note in context.plan.notes)


def test_what_chance_does_to_tags_it_does_not_to_the_class(own, tmp_path):
    tags = ["--tag_dropout", "0.5", "--shuffle_tags", "--caption_separator", " "]
    context = prepared([*own, *PRIOR, *tags], tmp_path / "out")
    shown = {
        views.caption_in(example, epoch, 0, kept=True)
        for example in context.data.shown.examples
        for epoch in range(10)
        if example.is_class
    }
    assert shown == {"a square"}


def test_pictures_that_the_base_drew_before_count_once(own, tmp_path):
    with_drawn_class(prepared([*own, *PRIOR], tmp_path / "out"))
    (tmp_path / "chosen").mkdir()
    for path in drawn_in(tmp_path)[:10]:
        shutil.copy(path, tmp_path / "chosen")
    context = with_drawn_class(prepared([*own, *PRIOR, "--class_data_dir", str(tmp_path / "chosen")], tmp_path / "out"))
    found = context.data.class_images
    ids = [example.id for example in (*found.trained, *found.measured)]
    assert len(ids) == len(set(ids)) == 10
    assert (found.num_given, found.num_drawn) == (10, 0)


def test_how_the_base_draws_is_part_of_what_a_run_is(own, tmp_path, trainer):
    flags = [*replaced(own, max_train_steps=2), *PRIOR, "--checkpointing_steps", "1"]
    assert trainer(*flags, "--output_dir", tmp_path / "out").code == 0
    again = ["--resume_from_checkpoint", tmp_path / "out" / "checkpoint-1", "--output_dir", tmp_path / "again"]
    ended = trainer(*replaced(flags, num_inference_steps=3), *again)
    assert ended.code == 2
    assert "num_inference_steps: 2 then, 3 now" in ended.output


def test_what_is_missing_or_contradicts_is_named(own, tmp_path):
    (tmp_path / "dogs").mkdir()
    picture(0).save(tmp_path / "dogs" / "a.png")
    with pytest.raises(DataError, match="give all of them the same with --class_prompt"):
        prepared([*own, "--class_data_dir", str(tmp_path / "dogs")], tmp_path / "out")
    for values, said in (
        ({"with_prior_preservation": True}, "needs --class_prompt"),
        ({"class_prompt": "a dog"}, "only with --with_prior_preservation"),
        ({"class_prompt": " ", "with_prior_preservation": True}, "--class_prompt is empty"),
        ({"class_prompt": "a tok dog", "trigger_word": "tok", "with_prior_preservation": True}, "leave it out there"),
        ({"class_data_dir": "x", "train_data_dir": "x"}, "is what is trained on"),
        ({"num_class_images": 5}, "only with --class_prompt or --class_data_dir"),
    ):
        (problem,) = DataOptions(**values).problems()
        assert said in problem
    with pytest.raises(ConfigError, match="--prior_loss_weight has an effect only with"):
        prepared([*own, "--prior_loss_weight", "0.5"], tmp_path / "out")


def test_the_fewer_are_shown_again_with_draws_of_their_own(colours):
    options = DataOptions(train_data_dir=str(colours))
    examples = read_manifest(colours, options).examples
    found = class_images.filled(examples, 20)
    assert len({example.id for example in found}) == 20
    assert {example.views_id for example in found} == {example.id for example in examples}
    assert sorted(example.copy for example in found) == sorted([0] * 8 + [1] * 8 + [2] * 4)
    again = class_images.filled(found, 24)
    assert len({example.id for example in again}) == 24
    assert class_images.filled(examples, 8) == examples
