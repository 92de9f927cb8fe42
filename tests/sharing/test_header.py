"""What a file says of itself when it has left its folder: base, trigger word and license, and nothing private."""

import json
import re
import shutil

import pytest
from safetensors import safe_open

from pipeline.run.encode import encode
from pipeline.sharing import documents
from tests.conftest import dedupe
from tests.sharing.carded import BASE, replaced

FILE = "pytorch_lora_weights.safetensors"


def header_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.invariant
def test_both_files_name_base_trigger_and_license_and_inspect_shows_them(trainer, small, miniature, tmp_path, capsys):
    from pipeline.__main__ import main

    base, out = tmp_path / "my_base", tmp_path / "squares"
    shutil.copytree(miniature, base)
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: my-terms\n---\n", encoding="utf-8")
    flags = dedupe([*small, "--pretrained_model_name_or_path", base, "--max_train_steps", "2"])
    ended = trainer(*flags, "--trigger_word", "square", "--output_dir", out)
    assert ended.code == 0, ended.output
    note, spec = json.loads(header_of(out / FILE)["t2i_lora"]), header_of(out / "comfyui" / "squares.safetensors")
    assert (note["base_model"], note["trigger"], note["licence"]) == ("my_base", "square", "my-terms")
    assert (spec["modelspec.title"], spec["modelspec.license"]) == ("squares", "my-terms")
    assert main(["inspect", str(out / FILE)]) == 0
    said = capsys.readouterr().out
    for label, value in (("base model", "my_base"), ("trigger", "square"), ("licence", "my-terms")):
        assert re.search(rf"^  {label} +{value}$", said, re.MULTILINE), label
    assert str(tmp_path) not in json.dumps([note, spec])


@pytest.mark.unit
@pytest.mark.parametrize("front", ["date: 2024-02-30", "x: !!int 'a'", "x: " + "[" * 2000, "license: [a", "- 1"])
def test_a_page_of_somebody_else_that_is_not_understood_costs_nothing(miniature, tmp_path, front):
    from pipeline.families import registry
    from pipeline.families.options import ModelOptions

    base = tmp_path / "my_base"
    shutil.copytree(miniature, base)
    (base / "README.md").write_text(f"---\n{front}\n---\n", encoding="utf-8")
    options = ModelOptions(pretrained_model_name_or_path=str(base))
    assert documents.base_model(options, registry.detect(base), 7.5).license is None


@pytest.mark.unit
def test_what_is_private_is_not_said(jane):
    assert documents.for_header(BASE, "sks") == {
        "base_model": "user/miniature",
        "trigger": "sks",
        "licence": "creativeml-openrail-m",
    }
    local = replaced(BASE, hub_id=None, name="jane", license=None)
    assert documents.for_header(local, "from /home/jane/pictures") == {}
    starter = replaced(BASE, hub_id=None, name="base", title="the base that ships with t2i-lora")
    assert documents.for_header(starter, None)["base_model"] == "the base that ships with t2i-lora"


@pytest.mark.invariant
def test_the_file_for_comfyui_is_not_called_after_the_account(small, tmp_path, jane, monkeypatch):
    from pipeline.run import build, export
    from tests.conftest import prepared

    context = prepared(small, tmp_path / "jane")
    encode(context)
    models = build.load_models(context)
    export.write_for_comfyui(context, models.adapted, {})
    (path,) = (tmp_path / "jane" / "comfyui").iterdir()
    assert path.name == "name.safetensors"
    assert "jane" not in json.dumps(header_of(path))
