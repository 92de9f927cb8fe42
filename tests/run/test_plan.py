"""What is chosen where nothing is given, and that the plan says why."""

import json
import shutil

import pytest
import torch
from PIL import Image

from pipeline import shipped
from pipeline.config import Run
from pipeline.data.buckets import together
from pipeline.data.sampler import StepSampler
from pipeline.engine import _precision
from pipeline.errors import ConfigError
from pipeline.evaluation import previews
from pipeline.geometry import Size
from pipeline.notes import Note
from pipeline.run.beside import DECODING
from pipeline.run.output_folder import _write_notes
from pipeline.run.plan import _validation_interval, length_of
from pipeline.training.remaining import Beside
from tests.conftest import make_shapes, prepared, replaced

pytestmark = pytest.mark.unit


def stream_of(num_examples):
    return StepSampler(together(num_examples, Size.square(64)), 4, seed=0)


def test_a_note_is_one_line_of_its_file_whatever_the_pictures_are_called(tmp_path):
    _write_notes(tmp_path / "notes.txt", (Note("cropped", "a\nb.png"), "plain"))
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "cropped: a\\nb.png\nplain\n"


def test_a_picture_that_is_enlarged_is_not_said_to_be_shown_smaller(small, tmp_path):
    folder = make_shapes(tmp_path / "shapes", 4)
    Image.new("RGB", (3, 3)).save(folder / "tiny.png")
    (folder / "tiny.txt").write_text("tiny", encoding="utf-8")
    notes = prepared(replaced(small, train_data_dir=folder, max_train_steps=2), tmp_path / "out").plan.notes
    (said,) = [note for note in notes if "tiny.png" in note]
    assert "so enlarged" in said


def test_what_several_resolutions_come_to_is_said(small, tmp_path):
    flags = replaced(small, train_data_dir=make_shapes(tmp_path / "shapes"), max_train_steps=2)
    plan = prepared(replaced(flags, resolution="32,256"), tmp_path / "out").plan
    assert " sizes from " in dict(plan.rows)["data"]
    assert "256 x 256" not in dict(plan.rows)["data"]
    assert "--resolution: no picture has so many pixels (--upscale enlarges them): 256" in plan.notes
    (tmp_path / "two").mkdir()
    for name, size in (("a", (96, 60)), ("b", (64, 64))):
        Image.new("RGB", size).save(tmp_path / "two" / f"{name}.png")
        (tmp_path / "two" / f"{name}.txt").write_text(name, encoding="utf-8")
    two = prepared(replaced(flags, train_data_dir=tmp_path / "two", train_batch_size=8), tmp_path / "out").plan
    assert "(with " in dict(two.rows)["buckets"]  # of the one size that is left, which the other has joined


def test_no_pictures_are_drawn_of_a_test_set_that_nobody_named(tmp_path):
    flags = ["--max_train_steps", "2", "--num_validation_images", "0", "--output_dir", str(tmp_path / "out")]
    assert prepared(flags, tmp_path / "out").data.test_set is None
    with pytest.raises(ConfigError, match="0 draws nothing for --evaluation_data_dir; leave one of them out"):
        prepared([*flags, "--evaluation_data_dir", str(shipped.TEST)], tmp_path / "out")


@pytest.mark.parametrize(
    ("num_examples", "num_steps"), [(1, 25), (10, 250), (40, 1000), (160, 2000), (1000, 5000), (16_000, 20_000)]
)
def test_the_length_follows_the_size_of_the_dataset(num_examples, num_steps):
    """A hundred passes over a few pictures; four times the pictures are seen twice as often in all."""
    found, why = length_of(Run(), stream_of(num_examples))
    assert found == num_steps
    assert why == f"chosen for {num_examples} examples; --max_train_steps decides otherwise"


def test_pictures_of_a_class_add_as_many_steps_as_the_subject_needs():
    """Ten pictures of a subject among two hundred examples: a hundred passes over the ten, and as many of the class."""
    assert length_of(Run(), stream_of(200), num_own=10)[0] == 2 * length_of(Run(), stream_of(10))[0]


@pytest.mark.parametrize(
    ("num_examples", "batch", "steps", "extra", "interval"),
    [
        (228, 8, 210, Beside(validation=144, at_end=4064), 60),  # the demo: 4 losses and the base's in 9 % of the run
        (1080, 8, 1500, Beside(validation=384), 250),
        (1080, 8, 15_000, Beside(validation=384), 1500),
        (40, 4, 12, Beside(validation=144), 12),  # the base and the end, however long that takes
        (40, 4, 100, Beside(), 0),
    ],
)
def test_held_out_losses_are_as_often_as_the_run_affords(num_examples, batch, steps, extra, interval):
    sampler = StepSampler(together(num_examples, Size.square(64)), batch, seed=0)
    found, why = _validation_interval(Run(), extra, sampler, steps)
    assert found == interval
    assert why == {0: "", 1500: "10 times in all"}.get(interval, "as often as 9% of the run's work allows")


def test_what_is_given_wins_and_is_named():
    assert length_of(Run().replaced(num_train_epochs=3), stream_of(10)) == (8, "--num_train_epochs")
    assert length_of(Run().replaced(max_train_steps=7), stream_of(10)) == (7, "--max_train_steps")
    both = Run().replaced(max_train_steps=7, num_train_epochs=3)
    assert length_of(both, stream_of(10)) == (7, "--max_train_steps, which wins over --num_train_epochs")


def test_every_choice_of_the_plan_stands_with_its_reason(miniature, colours, tmp_path):
    flags = ["--pretrained_model_name_or_path", str(miniature), "--train_data_dir", str(colours)]
    said = prepared([*flags, "--cache_dir", str(tmp_path / "cache")], tmp_path / "out").plan.text()
    for choice in (
        "8 examples at 72 x 56 pixels (the model's own size)",
        "takes 2.8% of all pixels, at most 3% (yellow.png)",
        "chosen for 8 examples",
        "0.0001 (chosen for adamw), cosine",
        "nothing (chosen for fewer than 40 images)",
        "(nothing is held out)",
    ):
        assert choice in said
    given = ["--resolution", "32", "--learning_rate", "1e-3", "--validation_split", "0", "--optimizer", "prodigy"]
    given[given.index("1e-3")] = "0.5"
    said = prepared([*flags, *given], tmp_path / "out").plan.text()
    for choice in (
        "8 examples at 32 x 32 pixels (--resolution)",
        "0.5, cosine",
        "nothing (--validation_split 0)",
        "prodigy",
    ):
        assert choice in said


def test_pictures_are_priced_with_their_decoding(small, tmp_path):
    """Two prompts, one picture each, two steps with guidance: twice after the end, and the grid of the page."""
    prompts = ["--validation_prompt", "a red square", "--validation_prompt", "a red circle"]
    found = prepared([*small, *prompts], tmp_path / "out").plan.beside
    assert found.preview == 2 * (2 * 2 + DECODING)
    grid = len(previews.GUIDANCE_FACTORS) * len(previews.SCALES)
    assert found.at_end == (2 * 2 + grid) * (2 * 2 + DECODING)


def test_the_picture_of_which_cropping_takes_most_is_named(miniature, colours, tmp_path):
    with Image.open(colours / "black.png") as opened:
        opened.crop((0, 0, 80, 40)).save(colours / "black.png")
    flags = ["--pretrained_model_name_or_path", str(miniature), "--train_data_dir", str(colours), "--no-buckets"]
    said = prepared([*flags, "--resolution", "32"], tmp_path / "out").plan.text()
    assert "of all pixels, at most 50% (black.png)" in said


def test_float32_on_a_gpu_is_said_to_be_slow():
    said = {place: _precision("no", None, torch.device(place)).reason for place in ("cpu", "cuda")}
    assert said == {
        "cpu": "accelerate's setting, on cpu",
        "cuda": "accelerate's setting, on cuda: exact and slow; GPUs are made for bf16",
    }
    assert _precision("bf16", "bf16", torch.device("cuda")).reason == "asked for by --mixed_precision, on cuda"


def test_a_preview_without_the_trigger_word_is_noted(miniature, colours, tmp_path):
    flags = ["--pretrained_model_name_or_path", str(miniature), "--train_data_dir", str(colours)]
    prompts = ["--validation_prompt", "a red square", "--validation_prompt", "a red circle"]
    plan = prepared([*flags, *prompts, "--trigger_word", "square"], tmp_path / "out").plan
    assert plan.notes == ("previews without the trigger word 'square': 'a red circle'",)


def test_a_caption_that_is_cut_is_named_with_what_is_lost(miniature, colours, tmp_path):
    """The miniature spells: every letter is a token, 75 of them are read."""
    long = "a red square " + "and " * 20 + "its lost end"
    text = (colours / "metadata.jsonl").read_text(encoding="utf-8").replace("a red square", long)
    (colours / "metadata.jsonl").write_text(text, encoding="utf-8")
    flags = ["--pretrained_model_name_or_path", str(miniature), "--train_data_dir", str(colours)]
    notes = prepared(flags, tmp_path / "out").plan.notes
    assert len(notes) == 1
    assert "'a red square and and" in notes[0]
    assert "end'" in notes[0].split("loses ")[1]
    assert "red" not in notes[0].split("loses ")[1]


def test_a_warm_up_that_never_ends_is_noted(small, tmp_path):
    context = prepared([*small, "--lr_warmup_steps", "1000"], tmp_path / "out")
    assert any("warm-up of 1000 steps does not end in 12" in note for note in context.plan.notes)
    assert not any("warm-up" in note for note in prepared(small, tmp_path / "out").plan.notes)


def test_many_notes_are_counted_by_kind_and_each_is_kept(miniature, colours, tmp_path, trainer):
    rows = [json.loads(line) for line in (colours / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [{**row, "text": f"{row['text']} {'and so on ' * 12}"} for row in rows]
    (colours / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (colours / "clip.mp4").write_bytes(b"x")
    flags = ["--pretrained_model_name_or_path", str(miniature), "--train_data_dir", str(colours)]
    flags += ["--resolution", "72", "--cache_dir", str(tmp_path / "cache")]
    plan = prepared(flags, tmp_path / "out").plan
    said = [line.removeprefix("  note: ") for line in plan.text().splitlines() if " note" in line]
    assert len(said) == 3
    assert said[0] == "left out: .mp4 files are neither images nor captions: clip.mp4"
    assert said[1].startswith("captions cut by the text encoder (8): 'a ")
    assert said[1].endswith("; and 5 more")
    assert said[2] == "  9 notes in all; a run writes each to notes.txt"
    short = ["--max_train_steps", "1", "--num_validation_images", "0", "--rank", "2"]
    ended = trainer(*flags, *short, "--output_dir", tmp_path / "out")
    assert ended.code == 0, ended.output
    written = (tmp_path / "out" / "notes.txt").read_text(encoding="utf-8").splitlines()
    assert written == list(plan.notes)


def test_an_output_folder_is_not_the_datasets_own(miniature, colours, tmp_path):
    flags = ["--pretrained_model_name_or_path", str(miniature), "--train_data_dir", str(colours)]
    with pytest.raises(ConfigError, match="is the folder of --train_data_dir; give another, for example"):
        prepared(flags, colours)
    inside = colours / "run"
    assert prepared(flags, inside).plan.sampler.num_entries == 8
    (inside / "samples").mkdir(parents=True)
    for name in ("run.toml", "status.json"):
        (inside / name).write_text("", encoding="utf-8")
    shutil.copy(colours / "red.png", inside / "samples" / "0.png")
    plan = prepared([*flags, "--overwrite_output_dir"], inside).plan
    assert plan.sampler.num_entries == 8
    assert list(plan.notes) == ["left out: the output folder of a run: run/"]
