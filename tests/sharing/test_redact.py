"""Nothing private is in what is shared, whatever the run holds, and what is public stays."""

import json
import re
import tomllib
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import ModelCard, constants

from pipeline import config
from pipeline.data.card import Card, People
from pipeline.errors import ConfigError
from pipeline.evaluation.metrics.measure import Estimate
from pipeline.evaluation.results import Evaluation
from pipeline.sharing import hub, redact
from tests.sharing.carded import BASE, DATA, ODD, PRIVATE, changed, front_of, replaced, text_of
from tests.sharing.loopback import TOKEN, Hub

pytestmark = pytest.mark.unit
HOSTILE = (
    "/home/jane/my photos/x",
    "~/photos/x",
    "file:///home/jane/x",
    "see /data/projects/secret/x.png, please",
    "C:\\Users\\jane\\x",
    "\\\\server7\\share\\x",
    "jane.doe@mail.example.org",
    "jane@workbench",
    "workbench.lan",
    "by jane",
    "hf_" + "Ab3" * 8,
    "sk-" + "Ab3" * 8,
    "key swordfish-1234",
)
LEAKS = r"jane|home/|/data|projects|Users|server7|workbench|hf_\w{8}|sk-A|swordfish|\w@\w"


@pytest.fixture
def out(squares):
    return squares


@pytest.mark.parametrize("said", HOSTILE)
def test_nothing_private_gets_into_the_card_whatever_the_run_holds(out, jane, said):
    """Every text of the run, of its files, of the dataset's card, of the base and every prompt is hostile."""
    run = tomllib.loads((out / "run.toml").read_text(encoding="utf-8"))
    hostile = {name: said for name, value in config.Run().flat().items() if value is None or isinstance(value, str)}
    if is_name := said in ("workbench.lan", "by jane"):  # as a trigger word it would be meant to be known
        del hostile["trigger_word"]
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in {**run, **hostile}.items()]
    (out / "run.toml").write_text("\n".join(lines) + f"\nnotes = {json.dumps([said])}\n", encoding="utf-8")
    environment = json.loads((out / "environment.json").read_text(encoding="utf-8"))
    changed(out / "environment.json", **dict.fromkeys([k for k, v in environment.items() if isinstance(v, str)], said))
    found = {name: Estimate(0.5, 0.25, 0.75, 31, name, said) for name in ("kid", said)}
    Evaluation(31, {"judge": said}, {"reference": {}, "base": found, "adapted": found, "change": found}).write(out)
    for index in (out / "samples").glob("*/index.json"):
        rows = json.loads(index.read_text(encoding="utf-8"))
        index.write_text(json.dumps([{**row, "prompt": f"a square {said}"} for row in rows]), encoding="utf-8")
    data = Card(**{**dict.fromkeys(vars(DATA), said), "people": People(True, said), "dataset_id": None})
    base = replaced(BASE, hub_id=None, name=said, license=said, license_name=said, license_link=said)
    for dataset in (data, None):
        text = text_of(out, base, dataset, said)
        assert not re.search(LEAKS, text), re.search(f".*(?:{LEAKS}).*", text)
        assert str(out.parent) not in text
        assert "Left out, because the prompt holds something private: 7." in text
        assert ("There is a trigger word, which is not shown" in text) != is_name
        assert "widget" not in front_of(out)


def test_a_name_of_the_account_that_is_the_trigger_word_stays(out, jane):
    toml = (out / "run.toml").read_text(encoding="utf-8").replace('"square"', '"jane"')
    (out / "run.toml").write_text(toml, encoding="utf-8")
    assert "**Trigger word:** jane." in text_of(out)
    assert front_of(out)["instance_prompt"] == "jane"


def test_ids_of_the_hub_are_public_whoever_is_in_them(out, jane):
    text = text_of(out, replaced(BASE, hub_id="jane/base"), Card(**{**vars(DATA), "dataset_id": "jane/squares"}))
    assert (front_of(out)["base_model"], front_of(out)["datasets"]) == ("jane/base", ["jane/squares"])
    assert "from_pretrained('jane/base')" in text


def test_pictures_with_a_private_prompt_are_counted_and_not_shown(out):
    text = text_of(out)
    assert PRIVATE not in [row["text"] for row in front_of(out)["widget"]]
    assert "home/" not in text
    assert "Left out, because the prompt holds something private: 1." in text


@pytest.mark.parametrize(
    "said",
    [
        "https://huggingface.co/user/model", "a / b", "and/or/both", "24/7", "to_q,mid_block.*", "what a @ day",
        "/imagine", "./a/b", "outputs/demo", "ratio 16:9", "the root of a tree", "janes", "~ 5 cats",
        "see: https://a.b/c/d?e=f#g",
    ],
)  # fmt: skip
def test_harmless_texts_stay_as_they_are(jane, said):
    assert redact.redactor("")(said) == said


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("a cat in /srv/pictures/cats.", "a cat in cats."),
        ("(/srv/pictures/cats)", "(cats)"),
        ("from /home/jane", "from home"),
        ("from /home/jane/", "from home"),
        ("from ~/cats and ~jane/dogs", "from cats and dogs"),
        ("D:/pictures/cats", "cats"),
        ("see:/srv/pictures/cats", "see:cats"),
        ("mail jane.doe@a.org now", "mail [address] now"),
        ("jane and janet on workbench", "[name] and janet on [name]"),
    ],
)
def test_what_is_left_of_a_text(jane, said, left):
    assert redact.redactor("")(said) == left


def test_run_toml_fit_for_sharing_is_a_run_toml_still(finished, jane, tmp_path):
    text = (finished / "run.toml").read_text(encoding="utf-8")
    shared = redact.scrubbed_run_toml(text)
    before, after = tomllib.loads(text), tomllib.loads(shared)
    different = {name for name in before if before[name] != after[name]}
    places = {"pretrained_model_name_or_path", "train_data_dir", "cache_dir", "output_dir"}
    assert different == places | {"validation_prompt"}
    assert {name: after[name] for name in places} == {
        "pretrained_model_name_or_path": "sd", "train_data_dir": "colours", "cache_dir": "cache",
        "output_dir": "squares",
    }  # fmt: skip
    assert after["validation_prompt"] == ["a red square", ODD, "a red square from pictures"]
    assert 'output_dir = "squares"  # shortened: it was private to the machine of the run\n' in shared
    assert shared.count("#") == text.count("#") + 5
    assert redact.scrubbed_run_toml(shared) == shared
    (tmp_path / "run.toml").write_text(shared, encoding="utf-8")
    command = config.parse(["--config", str(tmp_path / "run.toml")])
    assert command is not None
    assert command.run.train.output_dir == "squares"


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("/home/jane/my photos/tok dog", "tok dog"),
        ("/home/jane", "home"),
        ("/home/bob/", "home"),
        ("/data/jane", "home"),
        ("/x", "x"),
        ("/", "home"),
        ("~/photos", "photos"),
        ("~", "home"),
        ("../../jane/photos", "photos"),
        ("..", "home"),
        ("file:///home/jane/photos", "photos"),
        ("C:\\Users\\jane\\photos\\", "photos"),
        ("outputs/demo", "outputs/demo"),
        ("user/model", "user/model"),
        ("attention", "attention"),
        ("to_q,mid_block.*", "to_q,mid_block.*"),
        ("x=/home/jane/y", "x=y"),
        ("hf_" + "Ab3" * 8, "[secret]"),
        ("swordfish-1234", "[secret]"),
    ],
)
def test_what_is_left_of_a_place(jane, given, left):
    shared = redact.scrubbed_run_toml(f"train_data_dir = {json.dumps(given)}\nrank = 4\n")
    assert tomllib.loads(shared) == {"train_data_dir": left, "rank": 4}
    assert ("#" in shared) == (given != left)


def test_a_prompt_is_no_place_and_a_token_is_left_out(jane):
    text = 'validation_prompt = ["/imagine a cat", "a cat/dog\\u007f"]\nhub_token = "abc"\nuse_dora = true\n'
    shared = tomllib.loads(redact.scrubbed_run_toml(text))
    assert shared == {"validation_prompt": ["/imagine a cat", "a cat/dog\x7f"], "use_dora": True}


@pytest.mark.parametrize(("text", "said"), [("a = \n", "not valid TOML"), ("[optim]\na = 1\n", "the table [optim]")])
def test_what_is_no_run_toml(text, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        redact.scrubbed_run_toml(text)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # how huggingface_hub calls its client
def test_card_and_settings_pass_the_scan_of_an_upload(out, monkeypatch, tmp_path):
    """The home folder is the one the run's own paths lie in."""
    monkeypatch.setenv("HOME", str(out.parent.parent.parent))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    toml = (out / "run.toml").read_text(encoding="utf-8")
    assert str(out.parent.parent.parent) in toml
    text_of(out)
    with Hub() as server:
        hub.require_access("jane/squares", TOKEN, server.endpoint)
        hub.upload(out, "jane/squares", TOKEN, "Squares", endpoint=server.endpoint)
        where = {"endpoint": server.endpoint, "cache_dir": tmp_path / "downloads", "token": False}
        back = Path(huggingface_hub.snapshot_download("jane/squares", **where))
    assert (back / "run.toml").read_text(encoding="utf-8") == redact.scrubbed_run_toml(toml)
    for row in ModelCard.load(back / "README.md").data.to_dict()["widget"]:
        assert (back / row["output"]["url"]).read_bytes() == (out / row["output"]["url"]).read_bytes()
