"""The model card of a real run: it is read by the Hub's own code, its snippet runs, and nothing private is in it."""

import ast
import getpass
import json
import math
import re
import shutil
import socket
import tomllib
from pathlib import Path

import diffusers
import huggingface_hub
import pytest
import yaml
from huggingface_hub import ModelCard, constants
from PIL import Image, ImageOps

from pipeline import config, provenance
from pipeline.data.card import Card, People
from pipeline.errors import CheckpointError, ConfigError
from pipeline.evaluation.previews import kept
from pipeline.families import registry
from pipeline.families.options import ModelOptions
from pipeline.sharing import card, documents, hub, private
from tests.conftest import Running, largest_difference, make_colours, metrics, small_flags, snippet_of
from tests.families import original
from tests.sharing.loopback import TOKEN, Hub

pytestmark = pytest.mark.unit

ODD = 'a "blue": square\n---\n🦊 | `x` [y](z) <b> $$ *#1* \\'
PRIVATE = "a red square from /home/jane/pictures"
BASE = card.BaseModel(
    hub_id="user/miniature",
    name="miniature",
    pipeline_class="StableDiffusionPipeline",
    license="creativeml-openrail-m",
    license_name=None,
    license_link=None,
    template_tag="template:sd-lora",
    guidance_scale=7.5,
)
DATA = Card(
    license="cc-by-4.0",
    source="photos by the author",
    rights_basis="own work",
    people=People(identifiable=True, consent="signed releases"),
    sensitive_content="none",
    intended_use="a style for posters",
    pretty_name="Squares",
    dataset_id="user/squares",
)
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


@pytest.fixture(scope="module")
def finished(miniature, tmp_path_factory):
    """The output folder of a run; its prompts are as odd as they get. Not to be changed."""
    folder = tmp_path_factory.mktemp("card")
    out, flags = folder / "squares", small_flags(miniature, make_colours(folder / "colours"), folder / "cache")
    prompts = [word for prompt in ("a red square", ODD, PRIVATE) for word in ("--validation_prompt", prompt)]
    flags += [*prompts, "--num_validation_images", "1", "--validation_split", "0.5", "--trigger_word", "square"]
    ended = Running([*flags, "--output_dir", str(out)], folder / "log.txt").wait()
    assert ended.code == 0, ended.output
    return out


@pytest.fixture
def out(finished, tmp_path):
    """A copy of it to work on."""
    return Path(shutil.copytree(finished, tmp_path / "squares", ignore=shutil.ignore_patterns("checkpoint-*")))


@pytest.fixture
def jane(monkeypatch):
    """An account whose name, home, host and token are known."""
    monkeypatch.setenv("HOME", "/home/jane")
    monkeypatch.setenv("MY_TOKEN", "swordfish-1234")
    monkeypatch.setattr(getpass, "getuser", lambda: "jane")
    monkeypatch.setattr(socket, "gethostname", lambda: "workbench.lan")


def text_of(
    out: Path, base: card.BaseModel = BASE, data: Card | None = DATA, reason: str | None = None, **given
) -> str:
    assert card.write(out, base, data, reason, **given) == out / "README.md"
    return (out / "README.md").read_text(encoding="utf-8")


def front_of(out: Path) -> dict:
    return ModelCard.load(out / "README.md").data.to_dict()


def changed(path: Path, **values: object) -> None:
    """Change some entries of a JSON file; None takes one out."""
    found = {**(json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}), **values}
    path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}), encoding="utf-8")


def replaced(base: card.BaseModel, **values: object) -> card.BaseModel:
    return card.BaseModel(**{**vars(base), **values})


def test_the_front_matter_is_what_the_hub_reads(out):
    text_of(out)
    front = front_of(out)
    widget = front.pop("widget")
    assert front == {
        "base_model": "user/miniature",
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "license": "creativeml-openrail-m",
        "instance_prompt": "square",
        "datasets": ["user/squares"],
        "tags": ["text-to-image", "diffusers", "lora", "template:sd-lora"],
    }
    assert [row["text"] for row in widget][:2] == ["a red square", ODD]
    for row in widget:
        assert set(row) == {"text", "output"}
        assert (out / row["output"]["url"]).is_file()


def test_any_text_survives_yaml_and_markdown(out):
    """The front matter ends where it should, a table keeps its columns, the headings are ours."""
    odd = "yes: 'no' # \n---\n\"x\" \u2028 \x07 \x7f 🦊 {{ 7 * 7 }} {% raw %}"
    for name in ("base", "step-000012"):
        rows = json.loads((out / "samples" / name / "index.json").read_text(encoding="utf-8"))
        rows[0]["prompt"] = odd
        (out / "samples" / name / "index.json").write_text(json.dumps(rows), encoding="utf-8")
    data = Card(**{**vars(DATA), "source": "a | b\n\n# Heading\n![x](y)", "dataset_id": None})
    text = text_of(out, data=data, reason="# Heading")
    assert [row["text"] for row in front_of(out)["widget"]][:2] == [odd, ODD]
    body = ModelCard.load(out / "README.md").content.split("\n---\n", 1)[1]
    assert re.findall(r"^# .*", re.sub(r"(?s)```.*?```", "", body), re.MULTILINE) == ["# squares"]
    pictures = body.split("## Pictures")[1].split("## Numbers")[0]
    rows = [line for line in pictures.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(front_of(out)["widget"])
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert r"a \| b \# Heading \!\[x\](y)" in text
    assert "49" not in text.split("## Numbers")[0]
    assert ODD in [node.value for node in ast.walk(ast.parse(snippet_of(text))) if isinstance(node, ast.Constant)]


@pytest.mark.parametrize("prompt", ["1e3", "yes", "0o17", "null", "2026-01-01", "- x", "? y", "!!str z"])
def test_what_looks_like_something_else_stays_text_for_every_reader_of_yaml(out, prompt):
    rows = [{"prompt": prompt, "url": "x.png"}]
    front = card.front_matter(BASE, {"dataset_id": None}, prompt, rows)
    assert yaml.safe_load(front)["widget"][0]["text"] == yaml.safe_load(front)["instance_prompt"] == prompt
    assert front.count(json.dumps(prompt)) == 2  # in double quotes


def test_the_pictures_are_of_the_step_handed_over_and_none_belongs_to_the_dataset(out):
    text = text_of(out)
    shown = re.findall(r"samples/([\w-]+)/\d+\.png\)", text)
    step = json.loads((out / "result.json").read_text(encoding="utf-8"))["kept_step"]
    assert set(shown) == {"base", f"step-{step:06d}", "unseen-base", "unseen-tuned"}
    assert len(shown) == 2 * (2 + 4)  # the prompts but for the private one, and what was held out
    assert hub.chosen(out).count("README.md") == 1
    assert not [name for name in hub.chosen(out) if "samples/data" in name or "truth" in name]
    for url in re.findall(r"\]\((samples/[^)]+)\)", text):
        with Image.open(out / url) as picture:
            assert picture.size == (64, 64)


def test_at_most_so_many_pictures(out):
    for name in ("unseen-base", "unseen-tuned"):
        rows = kept(out / "samples" / name)
        more = [{**rows[0], "prompt": f"square {n}", "seed": n, "path": None} for n in range(30)]
        (out / "samples" / name / "index.json").write_text(json.dumps(more), encoding="utf-8")
    text_of(out)
    assert len(front_of(out)["widget"]) == card.MAX_PAIRS


def test_pictures_that_are_gone_are_not_shown(out):
    (out / "samples" / "step-000012" / "0000.png").unlink()
    shutil.rmtree(out / "samples" / "unseen-base")
    text_of(out)
    assert [row["text"] for row in front_of(out)["widget"]] == [ODD]
    shutil.rmtree(out / "samples")
    text = text_of(out)
    assert "There is none to show." in text
    assert "<Gallery" not in text
    assert "widget" not in front_of(out)
    assert '"square",' in text.replace("'", '"')  # the trigger word alone is the prompt of the snippet


def test_the_pictures_are_called_marked_only_if_all_are(out):
    assert "trainedAlgorithmicMedia" in text_of(out)  # a run marks what it draws
    for path in (out / "samples").glob("*/*.png"):
        with Image.open(path) as picture:
            picture.convert("RGB").save(path)
    assert "trainedAlgorithmicMedia" not in text_of(out)
    for path in (out / "samples").glob("*/*.png"):
        with Image.open(path) as picture:
            provenance.save_marked(picture.convert("RGB"), path)
    assert "trainedAlgorithmicMedia" in text_of(out)
    ImageOps.mirror(Image.open(out / "samples" / "base" / "0001.png")).save(out / "samples" / "base" / "0001.png")
    assert "trainedAlgorithmicMedia" not in text_of(out)


def test_the_numbers_are_those_of_the_files(out):
    changed(
        out / "result.json", verdict={"distance": 3.21e-7, "effect": 0.123, "num_layers": 17}, kept_step=6,
        data={"examples": 77, "held_out": 0, "captions": 80, "distinct_captions": 79, "words": 2.5,
              "side": {"smallest": 61, "median": 64, "largest": 68}},
    )  # fmt: skip
    change = {"value": -0.1, "low": -0.2, "high": 0.05, "n": 9}
    rows = [{"step": n, "loss": 1.0, "learning_rate": n * 1e-5, "ids": ["a"] * 5} for n in range(1, 9)]
    rows[5]["validation"] = {"held_out_change": change, "held_out_base": 0.4}
    for other in (3, 7):
        rows[other]["validation"] = {"held_out_change": {**change, "value": 99.0}, "held_out_base": 0.4}
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    kid = {"name": "kid[x]", "value": 0.5, "low": 0.25, "high": 0.75, "n": 31}
    tuned = {"kid": kid, "clip_margin_change": {**kid, "low": -math.inf, "high": math.inf, "n": 1}}
    sets = {"truth": {"clip_margin": kid}, "base": {"kid": {**kid, "value": 0.625}}, "tuned": tuned}
    changed(out / "evaluation.json", judge="Inception-v3", reader="my_clip", n=31, sets=sets)
    text = text_of(out)
    assert "for 8 steps; the weights of step 6 are handed over." in text
    assert "it is 3.2e-07 of its own effect away from the trained adapter (17 layers)" in text
    assert "changes the prediction of the base model by 12 %" in text
    assert "On 9 images held out of training the loss changed by -25.0% [-50.0%, +12.5%]" in text
    assert re.search(
        r"\(KID.*\), by Inception-v3 \| 0.625 \[0.250, 0.750\] \| 0.500 \[0.250, 0.750\] \|  \| 31 \|", text
    )
    assert re.search(r"margin.*, by my\\_clip \|  \| \+0.500 \(no interval\) \|  \| 1 \|", text)
    assert "guess" not in text
    assert "| examples per step | 5 |\n" in text
    assert "| learning rate at its peak | 8e-05 |\n" in text
    assert "| rank | 4 |\n| alpha | as the rank |\n" in text
    assert "77 pictures. Their shorter side is 61 to 68 pixels, in the median 64 pixels; 79 of 80 captions" in text


def test_numbers_that_are_missing_are_left_out(out):
    (out / "metrics.jsonl").unlink()
    (out / "result.json").write_text("{}", encoding="utf-8")
    (out / "evaluation.json").unlink(missing_ok=True)
    text = text_of(out)
    assert "Nothing was measured." in text
    assert "held out" not in text
    assert "examples per step" not in text
    assert "None" not in text
    assert "trained with t2i-lora 0.1.0.\n" in text


def test_a_run_that_held_nothing_out_says_nothing_about_it(out):
    rows = [{key: value for key, value in row.items() if key != "validation"} for row in metrics(out)]
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert "generalise" not in text_of(out)


def test_the_real_run_is_told(out):
    text = text_of(out)
    assert "On 4 images held out of training the loss changed by " in text
    assert re.search(r"Read back by diffusers' own loader, it (predicts bit for bit|is \d)", text)
    assert "**Trigger word:** square." in text
    assert "| steps | 12 |\n| examples per step | 2 |\n| resolution | 64 |\n| rank | 4 |\n" in text
    assert "| learning rate at its peak | 0.001 |\n" in text
    assert "4 pictures, 4 more held out." in text


def test_the_snippet_runs_as_it_is_and_draws_the_first_picture(out, miniature, monkeypatch):
    """With the id of the base mapped to the miniature."""
    code = snippet_of(text_of(out))
    assert "from_pretrained('user/miniature')" in code
    monkeypatch.chdir(out)
    exec(compile(code.replace("user/miniature", str(miniature)), "card", "exec"), {})
    drawn = Image.open(out / "picture.png")
    assert largest_difference(drawn, Image.open(out / "samples" / "step-000012" / "0000.png")) <= 1
    assert largest_difference(drawn, Image.open(out / "samples" / "base" / "0000.png")) > 1


def test_the_snippet_of_a_local_base_runs_beside_its_folder(out, miniature, monkeypatch):
    local = replaced(BASE, hub_id=None, name="my base", license=None, pipeline_class="StableDiffusionPipeline")
    text = text_of(out, local)
    (out / "my base").symlink_to(miniature)
    monkeypatch.chdir(out)
    exec(compile(snippet_of(text), "card", "exec"), {})
    assert largest_difference(Image.open("picture.png"), Image.open("samples/step-000012/0000.png")) <= 1


def test_the_snippet_of_a_base_in_one_file_runs_beside_it(out, miniature, monkeypatch):
    pipe = diffusers.DiffusionPipeline.from_pretrained(miniature)
    original.write(pipe, out / "base.safetensors")
    shutil.copytree(miniature, out / "layout", ignore=shutil.ignore_patterns("*.safetensors"))
    local = replaced(BASE, hub_id=None, name="base.safetensors", kind="file", config="layout", license=None)
    text = text_of(out, local)
    assert "in a local file named base.safetensors" in text
    monkeypatch.chdir(out)
    exec(compile(snippet_of(text), "card", "exec"), {})
    assert largest_difference(Image.open("picture.png"), Image.open("samples/step-000012/0000.png")) <= 1
    assert "config" not in snippet_of(text_of(out, replaced(local, config=None)))


def test_what_a_card_knows_of_its_base(miniature, tmp_path):
    """The terms of a model that only lends its configuration are not the file's."""
    folder, file = tmp_path / "layout", tmp_path / "base.safetensors"
    shutil.copytree(miniature, folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    original.write(diffusers.DiffusionPipeline.from_pretrained(miniature), file)
    given = {"pretrained_model_name_or_path": str(file), "single_file_config": str(folder)}
    for values, expected in (
        (given, ("file", "base.safetensors", "layout", None)),
        ({**given, "single_file_config": "user/model"}, ("file", "base.safetensors", "user/model", None)),
        ({"pretrained_model_name_or_path": str(folder)}, ("folder", "layout", None, "mit")),
        ({}, ("starter", "base", None, "mit")),
    ):
        base = documents.base_model(ModelOptions(**values), registry.detect(folder), 1.0)
        assert (base.kind, base.name, base.config, base.license) == expected
        assert base.hub_id is None
    base = documents.base_model(ModelOptions(pretrained_model_name_or_path="user/model"), registry.detect(folder), 1.0)
    assert (base.hub_id, base.name) == ("user/model", "model")


def test_the_snippet_says_what_else_is_needed(out, miniature, monkeypatch):
    """The Hub's id of the adapter, revision and variant of the base, and a prompt with the trigger word."""
    toml = (out / "run.toml").read_text(encoding="utf-8").replace('"square"', '"ohwx"')
    (out / "run.toml").write_text(toml + 'revision = "v1"\nvariant = "fp16"\n', encoding="utf-8")
    code = snippet_of(text_of(out, repo="user/squares-lora"))
    assert "from_pretrained('user/miniature', revision='v1', variant='fp16')\n" in code
    assert "load_lora_weights('user/squares-lora', weight_name='pytorch_lora_weights.safetensors'" in code
    assert "of this folder" not in code
    assert "    'ohwx',\n" in code
    assert "guidance_scale=7.5" in code
    compile(code, "card", "exec")


def test_a_local_base_is_no_base_model_of_the_hub(out):
    for hub_id in (None, "/srv/models/base", "../base", "base"):
        text = text_of(out, replaced(BASE, hub_id=hub_id, name="base"))
        assert {"base_model", "base_model_relation"} & set(front_of(out)) == set()
        assert "in a local folder named base" in text
        assert "/srv" not in text


@pytest.mark.parametrize(
    ("license", "name", "link", "front", "said"),
    [
        (None, None, None, {"license": "unknown"}, "license of the base model is unknown. Find it out"),
        ("unknown", None, None, {"license": "unknown"}, "under unknown"),
        ("OFL-1.1", None, None, {"license": "ofl-1.1"}, "under OFL-1.1."),
        ("other", "My Flux: dev!", "LICENSE.md",
         {"license": "other", "license_name": "my-flux-dev",
          "license_link": "https://huggingface.co/user/miniature/blob/main/LICENSE.md"},
         r"under My Flux: dev\! (<https://huggingface.co/user/miniature/blob/main/LICENSE.md>)."),
        ("other", None, "https://example.org/l?a=1&b=2",
         {"license": "other", "license_link": "https://example.org/l?a=1&b=2"}, "(<https://example.org/l?a=1&b=2>)"),
        ("other", None, None, {"license": "other"}, "under other."),
        ("flux-9-license", None, None, {"license": "other", "license_name": "flux-9-license"}, "under flux-9-license."),
        ("mit", None, "https://a.b/c d", {"license": "mit"}, "under mit."),
    ],
)  # fmt: skip
def test_licenses(out, license, name, link, front, said):
    text = text_of(out, replaced(BASE, license=license, license_name=name, license_link=link))
    assert {key: value for key, value in front_of(out).items() if key.startswith("license")} == front
    assert said in text.split("## License")[1]


def test_what_the_dataset_declares_is_told_and_what_it_does_not_too(out):
    text = text_of(out)
    for said in ("cc-by-4.0", "photos by the author", "own work", "signed releases", "a style for posters", "Squares"):
        assert said in text.split("## What it was trained on")[1]
    assert "no card of the dataset" not in text
    text = text_of(out, data=None, reason="my own drawings")
    assert "**There is no card of the dataset:** nobody declared" in text
    assert "The reason that was given: my own drawings" in text
    assert "datasets" not in front_of(out)
    assert "No reason was given." in text_of(out, data=None)


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
    kid = {"name": "kid[x]", "value": 0.5, "low": 0.25, "high": 0.75, "n": 31}
    sets = {"truth": {}, "base": {"kid": kid}, "tuned": {"kid": kid}}
    changed(out / "evaluation.json", judge=said, reader=said, n=31, sets=sets)
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
    assert private.cleaner("")(said) == said


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
    assert private.cleaner("")(said) == left


def test_a_folder_without_a_finished_run(tmp_path):
    with pytest.raises(CheckpointError, match="holds no finished run"):
        card.write(tmp_path, BASE, None, None)


def test_the_same_run_gives_the_same_card(out):
    assert text_of(out) == text_of(out)


def test_run_toml_fit_for_sharing_is_a_run_toml_still(finished, jane, tmp_path):
    text = (finished / "run.toml").read_text(encoding="utf-8")
    shared = private.scrubbed_run_toml(text)
    before, after = tomllib.loads(text), tomllib.loads(shared)
    different = {name for name in before if before[name] != after[name]}
    places = {"pretrained_model_name_or_path", "train_data_dir", "cache_dir", "output_dir"}
    assert different == places | {"validation_prompt"}
    assert {name: after[name] for name in places} == {
        "pretrained_model_name_or_path": "epsilon", "train_data_dir": "colours", "cache_dir": "cache",
        "output_dir": "squares",
    }  # fmt: skip
    assert after["validation_prompt"] == ["a red square", ODD, "a red square from pictures"]
    assert 'output_dir = "squares"  # shortened: it was private to the machine of the run\n' in shared
    assert shared.count("#") == text.count("#") + 5
    assert private.scrubbed_run_toml(shared) == shared
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
    shared = private.scrubbed_run_toml(f"train_data_dir = {json.dumps(given)}\nrank = 4\n")
    assert tomllib.loads(shared) == {"train_data_dir": left, "rank": 4}
    assert ("#" in shared) == (given != left)


def test_a_prompt_is_no_place_and_a_token_is_left_out(jane):
    text = 'validation_prompt = ["/imagine a cat", "a cat/dog\\u007f"]\nhub_token = "abc"\nuse_dora = true\n'
    shared = tomllib.loads(private.scrubbed_run_toml(text))
    assert shared == {"validation_prompt": ["/imagine a cat", "a cat/dog\x7f"], "use_dora": True}


@pytest.mark.parametrize(("text", "said"), [("a = \n", "not valid TOML"), ("[optim]\na = 1\n", "the table [optim]")])
def test_what_is_no_run_toml(text, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        private.scrubbed_run_toml(text)


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
        hub.upload(out, "jane/squares", TOKEN, "Squares", server.endpoint)
        where = {"endpoint": server.endpoint, "cache_dir": tmp_path / "downloads", "token": False}
        back = Path(huggingface_hub.snapshot_download("jane/squares", **where))
    assert (back / "run.toml").read_text(encoding="utf-8") == private.scrubbed_run_toml(toml)
    for row in ModelCard.load(back / "README.md").data.to_dict()["widget"]:
        assert (back / row["output"]["url"]).read_bytes() == (out / row["output"]["url"]).read_bytes()
