"""Several sources of data in one run: each read by its own options, all of them in one stream."""

import collections
import shutil
import tomllib

import pytest

from pipeline import config
from pipeline.config import Run
from pipeline.data import views
from pipeline.data.options import DataOptions
from pipeline.data.sources import by_source, names_of, read_sources, together
from pipeline.errors import ConfigError, DataError
from pipeline.geometry import Size
from pipeline.sharing import redact
from tests.audit.flaws import picture, write_rows
from tests.conftest import make_colours, make_shapes, metrics, prepared

pytestmark = pytest.mark.unit


@pytest.fixture
def pets(tmp_path):
    """Two folders that are both called photos, each with its captions in another form."""
    for name in ("dog", "cat"):
        (tmp_path / name / "photos").mkdir(parents=True)
    write_rows(
        tmp_path / "dog" / "photos", [{"file_name": "a.png", "text": "one"}, {"file_name": "b.png", "text": "two"}]
    )
    for number, name in enumerate("ab"):
        picture(number).save(tmp_path / "dog" / "photos" / f"{name}.png")
    for number in range(3):
        picture(number + 5).save(tmp_path / "cat" / "photos" / f"{number}.png")
        (tmp_path / "cat" / "photos" / f"{number}.txt").write_text(f"grey, number {number}, asleep")
    return tmp_path


def tables(pets):
    return (
        {
            "train_data_dir": str(pets / "dog" / "photos"),
            "repeats": 4,
            "caption_prefix": "ohwx",
            "trigger_word": "ohwx",
        },
        {"train_data_dir": str(pets / "cat" / "photos"), "shuffle_tags": True, "resolution": "32,64"},
    )


def options_of(pets, source, **more):
    return DataOptions(source=tuple(source), cache_dir=str(pets / "cache"), **more)


def test_each_source_is_read_by_its_own_options(pets):
    options = options_of(pets, tables(pets))
    assert options.problems() == []
    found = read_sources(options)
    assert names_of(options) == ("photos-2", "photos")
    assert found.origin == "photos + photos-2"
    counts = collections.Counter(example.name for example in found.examples)
    assert counts == {
        **{f"photos-2/{name}.png": 4 for name in "ab"},
        **{f"photos/{number}.png": 1 for number in range(3)},
    }
    dogs, cats = by_source(options, found)
    assert (len(dogs), len(cats)) == (8, 3)
    assert {example.caption for example in dogs} == {"ohwx one", "ohwx two"}
    assert {views.caption_in(cats[0], epoch, 0, kept=False) for epoch in range(40)} > {cats[0].caption}
    assert not dogs[0].options.varies_tags
    assert (cats[0].options.sides, dogs[0].options.sides) == ((32, 64), ())


def test_names_are_free_and_of_any_number(tmp_path):
    places = ("colours", "shapes", "colours-2", "other/colours", "more/colours")
    options = DataOptions(source=tuple({"train_data_dir": str(tmp_path / place)} for place in places))
    assert len(set(names_of(options))) == 5
    assert dict(zip(places, names_of(options), strict=True))["shapes"] == "shapes"
    many = DataOptions(source=tuple({"train_data_dir": f"a folder with number {n}"} for n in range(30)))
    assert together(many) == "a folder with number 0-and-29-more"


def test_the_same_picture_in_two_sources_is_each_ones_own_in_any_order(pets):
    for name in ("a", "b"):
        shutil.copytree(pets / "cat" / "photos", pets / name / "photos")
    source = [
        {"train_data_dir": str(pets / "b" / "photos"), "resolution": 32},
        {"train_data_dir": str(pets / "a" / "photos"), "random_flip": True},
    ]
    one, other = (read_sources(options_of(pets, tables)) for tables in (source, source[::-1]))
    assert [(e.id, e.options.own) for e in one.examples] == [(e.id, e.options.own) for e in other.examples]
    assert together(options_of(pets, source)) == together(options_of(pets, source[::-1]))


def test_the_order_of_tables_decides_nothing(pets):
    one, other = (read_sources(options_of(pets, source)) for source in (tables(pets), tables(pets)[::-1]))
    assert one.fingerprint == other.fingerprint
    assert [example.id for example in one.examples] == [example.id for example in other.examples]


def test_the_problems_of_all_sources_are_named_at_once(pets):
    (pets / "dog" / "photos" / "a.png").write_bytes(b"")
    (pets / "cat" / "photos" / "1.txt").unlink()
    missing = {"train_data_dir": str(pets / "bird")}
    with pytest.raises(DataError) as error:
        read_sources(options_of(pets, (*tables(pets), missing)))
    said = str(error.value)
    assert said.startswith("bird + photos + photos-2: 3 problem(s)")
    assert "photos-2/metadata.jsonl, line 1, a.png: cannot be used: there is nothing in it" in said
    assert "photos/1.png: no caption" in said
    assert f"--train_data_dir {pets / 'bird'} does not exist" in said


def test_how_often_pictures_count_is_no_matter_of_their_card(pets):
    (table, _) = tables(pets)
    once, often = (read_sources(options_of(pets, [{**table, "repeats": number}])) for number in (1, 5))
    assert once.fingerprint != often.fingerprint
    assert once.data_fingerprint == often.data_fingerprint == once.fingerprint


def test_each_is_measured_at_its_own_resolution(miniature, tmp_path):
    make_colours(tmp_path / "colours")
    make_shapes(tmp_path / "shapes")
    source = [
        {"train_data_dir": str(tmp_path / "colours"), "resolution": 64},
        {"train_data_dir": str(tmp_path / "shapes"), "resolution": 32},
    ]
    run = Run().replaced(source=source, pretrained_model_name_or_path=str(miniature), validation_split=0.5)
    (tmp_path / "run.toml").write_text(run.to_toml(), encoding="utf-8")
    context = prepared(["--config", str(tmp_path / "run.toml"), "--cache_dir", str(tmp_path)], tmp_path / "out")
    for example in context.data.held_out.examples:
        side = int(example.options.resolution)
        assert side**2 / 2 < context.plan.possible.measured(example).area <= side**2
    assert context.plan.size == Size.square(64)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"train_data_dir": "x", "repeat": 3}, "repeat is no option of a source; did you mean repeats?"),
        ({"train_data_dir": "x", "validation_split": 0.1}, "validation_split is one for all sources; put it above"),
        ({"train_data_dir": "x", "num_repeats": 2}, "num_repeats is here repeats."),
        ({"train_data_dir": "x", "repeats": "many"}, "repeats cannot be 'many'"),
        ({"train_data_dir": "x", "random_flip": 1}, "random_flip cannot be 1"),
        ({"train_data_dir": "x", "missing_caption": "drop"}, "missing_caption cannot be 'drop'"),
        ({"train_data_dir": "x", "repeats": 0}, "[[source]] 2: --repeats is 0, but must be between 1 and"),
        ({"train_data_dir": "x", "keep_tokens": 1}, "--keep_tokens has an effect only with"),
        ({"train_data_dir": "x", "dataset_name": "y"}, "two sources of data"),
        ({"repeats": 3}, "[[source]] 2: it names no data"),
        ({"train_data_dir": ""}, "train_data_dir is empty"),
        ({"train_data_dir": "z"}, "two of them are the same"),
    ],
)
def test_mistakes_in_a_table(table, said):
    problems = DataOptions(source=({"train_data_dir": "z"}, table)).problems()
    assert any(said in problem for problem in problems), problems
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[source]\ntrain_data_dir = 'x'\n", "write [[source]] with two brackets"),
        ("source = ['x']\n", "source is no key"),
        ("sources = ['x']\n", "write a table [[source]] for each source"),
        ("[[sources]]\ntrain_data_dir = 'y'\n", "write a table [[source]] for each source"),
        ("[[source]]\ntrain_data_dir = 'x'\n[[other]]\na = 'y'\n", "the table [other]"),
        ("train_data_dir = 'y'\n[[source]]\ntrain_data_dir = 'x'\n", "--train_data_dir stands beside [[source]]"),
        ("[[source]]\ntrain_data_dir = 'x'\n[source.more]\na = 1\n", "more is no option of a source"),
    ],
)
def test_mistakes_in_a_file(tmp_path, text, said):
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ConfigError) as error:
        config.parse(["--config", str(tmp_path / "run.toml")])
    assert said in str(error.value)


def test_data_are_called_as_in_diffusers_dreambooth_too(tmp_path):
    assert config.parse(["--instance-data-dir=dogs", "--instance_prompt", "a dog"]).run.data.train_data_dir == "dogs"
    (tmp_path / "run.toml").write_text("instance_data_dir = 'dogs'\n")
    assert config.parse(["--config", str(tmp_path / "run.toml")]).run.data.train_data_dir == "dogs"
    (tmp_path / "run.toml").write_text("[[source]]\ninstance_data_dir = 'dogs'\n")
    assert config.parse(["--config", str(tmp_path / "run.toml")]).run.data.source == ({"train_data_dir": "dogs"},)


def test_a_run_with_sources_is_written_read_and_shared(pets, tmp_path):
    run = Run().replaced(source=list(tables(pets)), rank=4)
    (tmp_path / "run.toml").write_text(run.to_toml(), encoding="utf-8")
    command = config.parse(["--config", str(tmp_path / "run.toml")])
    assert command.run == run
    home = Run().replaced(source=[{"train_data_dir": "~/dog", "tag_dropout": 0}]).expanded()
    assert not home.data.source[0]["train_data_dir"].startswith("~")
    shared = redact.scrubbed_run_toml(run.to_toml())
    assert [table["train_data_dir"] for table in tomllib.loads(shared)["source"]] == ["photos", "photos"]
    assert shared.count("shortened") == 2
    assert redact.scrubbed_run_toml(shared) == shared


def test_sources_resume_and_are_the_same_in_any_order(miniature, tmp_path, trainer):
    """One with masks from transparency, one with tags, of two resolutions: whole, cut and turned round."""
    make_colours(tmp_path / "colours")
    make_shapes(tmp_path / "shapes")
    for place in (tmp_path / "shapes").glob("*.png"):
        with_mask = picture(1).convert("L").resize((16, 16))
        shown = picture(int(place.stem)).resize((64, 64)).convert("RGB")
        shown.putalpha(with_mask.resize(shown.size))
        shown.save(place)
    source = [
        {
            "train_data_dir": str(tmp_path / "colours"),
            "repeats": 3,
            "random_flip": True,
            "caption_prefix": "ohwx,",
            "trigger_word": "ohwx",
        },
        {"train_data_dir": str(tmp_path / "shapes"), "resolution": 32, "masked_loss": True, "tag_dropout": 0.2},
    ]
    run = Run().replaced(
        pretrained_model_name_or_path=str(miniature), source=source, resolution=64, rank=4, max_train_steps=4,
        num_validation_images=0, train_batch_size=2, learning_rate=1e-3, cache_dir=str(tmp_path / "cache"),
        checkpointing_steps=2,
    )  # fmt: skip
    folders = {}
    for name, changed in (("whole", run), ("turned", run.replaced(source=source[::-1]))):
        (tmp_path / f"{name}.toml").write_text(changed.to_toml(), encoding="utf-8")
        folders[name] = tmp_path / name
        ended = trainer("--config", tmp_path / f"{name}.toml", "--output_dir", folders[name])
        assert ended.code == 0, ended.output
    assert "source 1         colours: 8 images, 24 of 42 examples of an epoch (57%), repeats 3, random_flip, " in (
        trainer("--config", tmp_path / "whole.toml", "--output_dir", tmp_path / "dry", "--dry_run").output
    )
    again = ["--output_dir", folders["turned"], "--resume_from_checkpoint", folders["whole"] / "checkpoint-2"]
    ended = trainer("--config", tmp_path / "turned.toml", *again)
    assert ended.code == 0, ended.output
    file = "pytorch_lora_weights.safetensors"
    assert (folders["turned"] / file).read_bytes() == (folders["whole"] / file).read_bytes()
    assert {tuple(row["size"].values()) for row in metrics(folders["whole"])} > {(32, 32)}
    card = (folders["whole"] / "README.md").read_text(encoding="utf-8")
    assert "**Trigger word:** ohwx. Put it into every prompt, for it was in the captions of a part of the pict" in card
    other = run.replaced(source=[{**source[0], "random_flip": False}, source[1]])
    (tmp_path / "other.toml").write_text(other.to_toml(), encoding="utf-8")
    again = ["--output_dir", tmp_path / "other", "--resume_from_checkpoint", folders["whole"] / "checkpoint-2"]
    ended = trainer("--config", tmp_path / "other.toml", *again)
    assert ended.code == 2
    assert "sources" in ended.output
