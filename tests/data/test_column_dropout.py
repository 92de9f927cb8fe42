"""Captions without some columns of their template: what they say, and how often each is shown."""

import json

import pytest

from pipeline.data import left_out, views
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.errors import DataError
from tests.conftest import metrics, prepared, replaced
from tests.data.test_caption_files import picture

pytestmark = pytest.mark.unit
ROW = {"colour": "red", "kind": "dog", "place": "park"}


def texts_of(template: str, row=None) -> list[str]:
    return left_out.combinations(template, row or ROW, 0.1)[0]


def folder_of(tmp_path, *rows):
    lines = []
    for number, row in enumerate(rows):
        picture(tmp_path / f"{number}.png", number)
        lines.append(json.dumps({"file_name": f"{number}.png", **row}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("template", "texts"),
    [
        ("a {colour} {kind}", ["a red dog", "a dog", "a red", "a"]),
        ("{kind}, {colour}, {place}", [
            "dog, red, park", "red, park", "dog, park", "dog, red", "park", "red", "dog", "",
        ]),
        ("a {kind}[ in the {place}]", ["a dog in the park", "a in the park", "a dog", "a"]),
        ("[a {colour}, wild ]{kind} .", ["a red, wild dog .", "dog.", "a red, wild.", "."]),
        ("[{colour} {kind}] here", ["red dog here", "here", "here", "here"]),
        ("{{[{kind}]}} [x", ["{dog} [x", "{} [x"]),
    ],
)  # fmt: skip
def test_what_is_left_reads_well(template, texts):
    assert texts_of(template) == texts


def test_a_value_is_never_taken_for_a_part_of_the_template():
    assert texts_of("{kind}[ in {place}]", {"kind": "[a] {b}", "place": "c"})[0] == "[a] {b} in c"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_each_column_is_left_out_as_often_as_asked_whatever_becomes_of_others(share):
    texts, weights = left_out.combinations("{colour} {kind} {place}", ROW, share)
    assert sum(weights) == pytest.approx(1)
    chance = dict(zip(texts, weights, strict=True))
    for value in ROW.values():
        assert sum(p for text, p in chance.items() if value not in text.split()) == pytest.approx(share)
    assert chance["red"] == pytest.approx((1 - share) * share**2)


@pytest.mark.parametrize(("template", "share"), [("{kind}", 0.5), ("{colour} {kind}", 0.9)])
def test_nothing_is_shown_as_often_as_every_column_is_left_out(template, share, tmp_path):
    """Without the empty caption the columns of such a template would be left out less often, or never."""
    folder = folder_of(tmp_path, {"kind": "dog", "colour": "red"}, {"kind": "dog", "colour": "blue"})
    example = read_manifest(folder, DataOptions(caption_template=template, column_dropout=share)).examples[0]
    chance = dict(zip(example.captions, example.weights, strict=True))
    assert sum(chance.values()) == pytest.approx(1)
    assert sum(weight for text, weight in chance.items() if "dog" not in text) == pytest.approx(share)
    assert chance[""] == pytest.approx(share if template == "{kind}" else share**2)
    assert example.written == example.captions[:1] == (example.caption,) != ("",)


def test_an_epoch_shows_one_of_them_by_its_weight(tmp_path):
    rows = [{"kind": f"dog{number}", "colour": "red"} for number in range(6)]
    options = DataOptions(caption_template="a {colour} {kind}", column_dropout=0.3)
    manifest = read_manifest(folder_of(tmp_path, *rows), options)
    example = manifest.examples[0]
    kind = example.caption.split()[-1]
    assert example.captions == (f"a red {kind}", f"a {kind}", "a red", "a")
    assert example.written == (f"a red {kind}",)
    shown = [views.caption_in(one, epoch, 3, kept=True) for one in manifest.examples for epoch in range(500)]
    assert sum("red" not in text for text in shown) / len(shown) == pytest.approx(0.3, abs=0.035)
    assert sum("dog" not in text for text in shown) / len(shown) == pytest.approx(0.3, abs=0.035)
    assert sum(text == "a" for text in shown) / len(shown) == pytest.approx(0.09, abs=0.025)
    plain = read_manifest(tmp_path, DataOptions(caption_template="[{colour}] {kind}"))
    assert plain.examples[0].caption.startswith("[red] dog")  # brackets mean something only where columns go


def test_a_trigger_word_that_could_go_is_named(tmp_path):
    folder = folder_of(tmp_path, {"kind": "zxq", "colour": "red"})
    options = DataOptions(caption_template="a {colour} {kind}", column_dropout=0.1, trigger_word="zxq")
    with pytest.raises(DataError, match="'a red' lacks the trigger word 'zxq'"):
        read_manifest(folder, options)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "only with --caption_template"),
        ({"caption_template": "{a}", "caption_weights": "1"}, "leave --caption_weights out"),
        ({"caption_template": "{a}{b}{c}{d}{e}{f}{g}"}, "7 columns makes 128 captions of each picture"),
    ],
)
def test_what_it_cannot_be_given_with(given, said):
    assert any(said in problem for problem in DataOptions(column_dropout=0.1, **given).problems())


def test_a_run_encodes_them_and_says_so(trainer, small, colours, tmp_path):
    rows = [json.loads(line) for line in (colours / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [{**row, "colour": row["text"].split()[1], "kind": "square"} for row in rows]
    (colours / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    flags = replaced(small, max_train_steps=3, num_validation_images=0)
    flags += ["--caption_template", "a {colour} {kind}", "--column_dropout", "0.5"]
    context = prepared(flags, tmp_path / "planned")
    assert "50% of examples for each of colour, kind without it: up to 4 captions of each picture" in (
        context.plan.text()
    )
    ended = trainer(*flags, "--output_dir", tmp_path / "out")
    assert ended.code == 0, ended.output
    assert len(metrics(tmp_path / "out")) >= 3
