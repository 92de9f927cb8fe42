"""What a card says of the base and the data: its snippet runs, and the terms are theirs."""

import shutil

import diffusers
import pytest
from PIL import Image

from pipeline.families import registry
from pipeline.families.checkpoint.source import ModelSource
from pipeline.families.options import ModelOptions
from pipeline.sharing import documents
from tests.conftest import largest_difference, snippet_of
from tests.families import original
from tests.sharing.carded import BASE, front_of, replaced, text_of

pytestmark = pytest.mark.unit


@pytest.fixture
def out(squares):
    return squares


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
    single = type(registry.detect(folder))(ModelSource(folder, file=file))
    for values, family, expected in (
        (given, single, ("file", "base.safetensors", "layout", None, None)),
        ({**given, "single_file_config": "user/model"}, single, ("file", "base.safetensors", "user/model", None, None)),
        (
            {"pretrained_model_name_or_path": str(folder)},
            registry.detect(folder),
            ("folder", "layout", None, "mit", None),
        ),
        (
            {},
            registry.find(ModelOptions(), None),
            ("folder", "base", None, "ofl-1.1", "the base that ships with t2i-lora"),
        ),
    ):
        base = documents.base_model(ModelOptions(**values), family, 1.0)
        assert (base.kind, base.name, base.config, base.license, base.title) == expected
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
