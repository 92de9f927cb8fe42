"""Captions of tags: what is shuffled and left out, what stays, and that what a run shows is what it keeps encoded."""

import pytest

from pipeline.data import tags, views
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.errors import DataError
from tests.conftest import metrics, prepared, replaced
from tests.data.test_caption_files import picture, write

pytestmark = pytest.mark.unit
CAPTION = "ohwx, red hat, beach, sunny, smiling"


def shown(options: DataOptions, caption: str = CAPTION, number: int = 60) -> set[str]:
    return {
        views.arranged(caption, options, seed=0, variant=variant, example_id=name)
        for variant in range(number)
        for name in ("a", "b")
    }


def test_shuffled_tags_are_all_there_and_the_first_stay_in_place():
    found = shown(DataOptions(shuffle_tags=True, keep_tokens=2))
    assert len(found) == 6  # all orders of the other three
    assert all(caption.startswith("ohwx, red hat, ") for caption in found)
    assert {tuple(sorted(caption.split(", "))) for caption in found} == {tuple(sorted(CAPTION.split(", ")))}


def test_tags_are_left_out_as_often_as_asked_and_those_kept_never():
    options = DataOptions(tag_dropout=0.25, keep_tokens=1)
    found = [
        views.arranged(CAPTION, options, seed=0, variant=variant, example_id="x").split(", ") for variant in range(2000)
    ]
    assert all(caption[0] == "ohwx" for caption in found)
    assert all(caption == [tag for tag in CAPTION.split(", ") if tag in caption] for caption in found)  # in their order
    assert sum(map(len, found)) / len(found) == pytest.approx(1 + 4 * 0.75, abs=0.1)


def test_what_is_put_around_a_caption_is_neither_shuffled_nor_left_out():
    options = DataOptions(
        shuffle_tags=True, tag_dropout=0.5, caption_prefix=" photo of  ohwx,", caption_suffix=", film grain"
    )
    whole = tags.dressed(CAPTION, options)
    assert whole == f"photo of ohwx, {CAPTION} , film grain"
    found = shown(options, whole)
    assert len(found) > 50
    assert all(caption.startswith("photo of ohwx,") and caption.endswith(", film grain") for caption in found)


@pytest.mark.parametrize(("separator", "caption"), [("|", "a b | c | d"), (" ", "a  b c"), (";", "a;b ;; c")])
def test_other_separators(separator, caption):
    found = shown(DataOptions(shuffle_tags=True, caption_separator=separator), caption)
    assert len(found) == 6
    wanted = sorted(tags.parted(caption, DataOptions(caption_separator=separator))[1])
    assert all(sorted(tags.parted(one, DataOptions(caption_separator=separator))[1]) == wanted for one in found)
    assert all("  " not in one for one in found)


def test_one_tag_and_none():
    options = DataOptions(shuffle_tags=True, keep_tokens=5)
    assert shown(options, "ohwx") == {"ohwx"}
    assert shown(options, "") == {""}
    assert shown(DataOptions(shuffle_tags=True, caption_prefix="ohwx,"), "") == {""}  # --missing_caption empty


def test_prefix_and_suffix_are_part_of_what_is_read(tmp_path):
    picture(tmp_path / "x.png")
    picture(tmp_path / "y.png", 9)
    write(tmp_path / "x.txt", "a dog")
    options = DataOptions(caption_prefix="ohwx,", instance_prompt="a cat", trigger_word="ohwx cat")
    with pytest.raises(DataError, match="lacks the trigger word 'ohwx cat'"):
        read_manifest(tmp_path, options)
    options = DataOptions(caption_prefix="ohwx,", caption_suffix="outside", missing_caption="empty")
    found = {example.name: example.captions for example in read_manifest(tmp_path, options).examples}
    assert found == {"x.png": ("ohwx, a dog outside",), "y.png": ("",)}  # empty stays empty


def test_a_trigger_word_that_may_be_left_out_is_named(tmp_path):
    picture(tmp_path / "x.png")
    write(tmp_path / "x.txt", CAPTION)
    given = {"tag_dropout": 0.2, "trigger_word": "ohwx"}
    with pytest.raises(
        DataError, match=r"x\.png: --tag_dropout may leave out the trigger word of 'ohwx, .*keep_tokens"
    ):
        read_manifest(tmp_path, DataOptions(**given))
    assert read_manifest(tmp_path, DataOptions(**given, keep_tokens=1)).examples
    assert read_manifest(tmp_path, DataOptions(**given, caption_prefix="ohwx")).examples


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keep_tokens": 1}, "--keep_tokens has an effect only with"),
        ({"caption_variants": 3}, "--caption_variants has an effect only with"),
        ({"caption_separator": "|"}, "--caption_separator has an effect only with"),
        ({"shuffle_tags": True, "caption_separator": ""}, "--caption_separator is empty"),
        ({"tag_dropout": 1.0}, "tag_dropout"),
        ({"shuffle_tags": True, "keep_tokens": -1}, "keep_tokens"),
    ],
)
def test_options_that_do_nothing_or_cannot_be_are_refused(given, said):
    assert any(said in problem for problem in DataOptions(**given).problems())


def test_tags_that_are_never_shown_as_they_were_written_train_to_the_end(small, colours, tmp_path, trainer):
    """The written file is compared with a caption that the cache must hold although no step reads it."""
    flags = replaced(small, max_train_steps=4, num_validation_images=0)  # an epoch
    flags += ["--caption_separator", " ", "--shuffle_tags", "--caption_variants", "1"]
    for seed in range(20):
        context = prepared([*flags, "--seed", str(seed)], tmp_path / "out")
        example = context.data.manifest.examples[0]
        if views.caption_in(example, 0, seed, kept=True) != example.caption:
            break
    assert trainer(*flags, "--seed", seed, "--output_dir", tmp_path / "out").code == 0


def test_what_some_epoch_shows_is_kept_and_no_more(small, colours, tmp_path):
    """The plan's number of captions is that of distinct texts in the log of the encoder; extending draws on."""
    flags = [*small, "--caption_separator", " ", "--shuffle_tags", "--caption_variants", "3"]
    context = prepared(replaced(flags, max_train_steps=4), tmp_path / "out")
    examples, seed = context.data.manifest.examples, context.run.train.seed
    assert context.plan.num_epochs == -(-4 * context.plan.global_batch // len(examples))
    kept = views.captions_to_keep(examples, context.plan.num_epochs, seed)
    every = {
        views.caption_in(example, epoch, seed, kept=True)
        for example in examples
        for epoch in range(context.plan.num_epochs)
    }
    assert set(kept) == every
    more = views.captions_to_keep(examples, 200, seed)
    assert set(kept) < set(more)
    assert len(more) <= 3 * len(examples)
    assert "shuffled, in at most 3 ways for each caption (--caption_variants)" in context.plan.text()


def test_without_a_cache_every_epoch_has_its_own(small, colours, tmp_path):
    flags = [*small, "--caption_separator", " ", "--shuffle_tags", "--tag_dropout", "0.2", "--train_text_encoder"]
    context = prepared(flags, tmp_path / "out")
    example = context.data.manifest.examples[0]
    found = {views.caption_in(example, epoch, 0, kept=False) for epoch in range(60)}
    assert len(found) > 10 >= len({views.caption_in(example, epoch, 0, kept=True) for epoch in range(60)})
    assert "shuffled and 20% left out, anew in every epoch" in context.plan.text()


def test_a_run_from_the_command_line_and_a_note_on_mirrored_words(trainer, small, colours, tmp_path):
    lines = (colours / "metadata.jsonl").read_text(encoding="utf-8").replace("a red square", "red square, on the left")
    (colours / "metadata.jsonl").write_text(lines, encoding="utf-8")
    flags = replaced(small, max_train_steps=3, num_validation_images=0)
    flags += ["--shuffle_tags", "--random_flip", "--keep_tokens", "1"]
    ended = trainer(*flags, "--output_dir", tmp_path / "out")
    assert ended.code == 0, ended.output
    assert "captions with 'left' or 'right', while --random_flip mirrors their images: red.png" in ended.output
    assert "shuffled after the first 1, in at most 10 ways" in ended.output
    assert len(metrics(tmp_path / "out")) == 3
