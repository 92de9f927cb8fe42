"""Weights of words in captions, as prompts for A1111 have them: never trained on in silence."""

import pytest

from pipeline.data import prompt_weights
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.errors import DataError
from tests.conftest import prepared
from tests.data.test_caption_files import captions, picture, write

pytestmark = pytest.mark.unit
WEIGHTED = {
    "(red hat:1.2)": "red hat",
    "a (red:1.2), (blue : .5) x": "a red, blue x",
    "((red:1.2) hat:1.1)": "red hat",
    "((deep (er (est:1.1):1.2):1.3):1.4)": "deep er est",
    "(((a:-1)))": "((a))",
    "(a (b) c:1.3)": "a (b) c",
    "x (smile) (hat:1), b": "x (smile) hat, b",
    r"(\(o\):1.2)": r"\(o\)",
    "(year 2020:1.2)": "year 2020",
}
PLAIN = [
    "holding_(object)", "((word))", "[word]", "(16:9)", "(at 10:30)", "(Mark 1:17)", r"\(word:1.2\)", r"\(word:1.2)",
    "(:1.2)", "(a:1.2", "a:1.2)", "(a): 1.2", "(note: red)", "",
]  # fmt: skip


def test_weights_are_told_from_brackets():
    assert {text: prompt_weights.without_weights(text) for text in WEIGHTED} == WEIGHTED
    assert all(map(prompt_weights.has_weights, WEIGHTED))
    assert [text for text in PLAIN if prompt_weights.has_weights(text)] == []
    assert [prompt_weights.without_weights(text) for text in PLAIN] == PLAIN


def test_each_is_named_and_two_ways_lead_on(tmp_path):
    picture(tmp_path / "x.png")
    picture(tmp_path / "y.png", 9)
    picture(tmp_path / "z.png", 18)
    write(tmp_path / "x.txt", "a (red hat:1.2)")
    write(tmp_path / "y.txt", "((boat:1.3))")
    write(tmp_path / "z.txt", "holding_(object)")
    with pytest.raises(
        DataError, match=r"2 problem\(s\).*\n.*x\.png: 'a \(red hat:1\.2\)' weighs words.*\n.*y\.png"
    ) as error:
        read_manifest(tmp_path, DataOptions())
    assert "--prompt_weights strip leaves the words" in str(error.value)
    plain = captions(tmp_path, prompt_weights="strip")
    assert plain == {"x.png": ("a red hat",), "y.png": ("(boat)",), "z.png": ("holding_(object)",)}
    assert captions(tmp_path, prompt_weights="keep")["x.png"] == ("a (red hat:1.2)",)


def test_what_is_put_around_captions_may_weigh_nothing_either(tmp_path):
    picture(tmp_path / "x.png")
    write(tmp_path / "x.txt", "a hat")
    with pytest.raises(DataError, match=r"weighs words.*it is in --caption_prefix.*take it out there"):
        read_manifest(tmp_path, DataOptions(caption_prefix="(ohwx:1.2),", prompt_weights="strip"))


def test_a_prompt_that_weighs_words_is_noted(small, tmp_path):
    preserved = ["--preservation_weight", "1", "--preservation_prompt", "(a square:0.5)"]
    plan = prepared([*small, *preserved, "--validation_prompt", "a (red:1.2) square"], tmp_path / "out").plan
    kind = "prompts that weigh words, which is read as text: "
    assert {note for note in plan.notes if "weigh words" in note} == {
        f"{kind}--validation_prompt 'a (red:1.2) square'",
        f"{kind}--preservation_prompt '(a square:0.5)'",
    }
